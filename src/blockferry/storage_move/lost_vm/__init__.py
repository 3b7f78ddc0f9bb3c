"""A VM that runs and that libvirt has lost."""
