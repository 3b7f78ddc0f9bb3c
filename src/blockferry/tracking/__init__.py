"""Changed blocks as a service."""
