"""What keeps a file that somebody may need, and a VM that may stand still: proof, guard, watchdog."""
