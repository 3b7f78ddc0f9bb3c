"""The only import of libvirt: connections, domains and their XML, checkpoints, pools, events."""
