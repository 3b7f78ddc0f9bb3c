"""One host: who it is, how it is reached, what is on it."""
