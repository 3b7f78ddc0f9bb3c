"""One VM to another host: its memory, its storage, or both at once."""
