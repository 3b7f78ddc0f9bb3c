"""Many hosts: which there are, what is known of each, and which of them has a VM."""
