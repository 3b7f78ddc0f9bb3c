"""Hosts: how one is reached, and what is done there. See DESIGN 4; `helper/` is the first room of it."""
