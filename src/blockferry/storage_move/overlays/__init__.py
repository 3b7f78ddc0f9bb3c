"""Overlays that take the writes, block commits, and copies that are gone on with."""
