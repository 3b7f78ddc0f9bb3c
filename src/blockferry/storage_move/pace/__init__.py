"""The speed of a copy, by what the guest feels."""
