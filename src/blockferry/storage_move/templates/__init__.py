"""Templates at the destination that are used again."""
