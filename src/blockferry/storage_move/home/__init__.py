"""The home directory: which files go along, copying and releasing them."""
