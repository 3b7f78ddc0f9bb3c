"""What everything may use: errors, units, configuration, the log."""
