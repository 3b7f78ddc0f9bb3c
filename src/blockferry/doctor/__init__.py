"""Whether a host is ready for moves."""
