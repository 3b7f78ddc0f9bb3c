"""Disks cloned by the file system."""
