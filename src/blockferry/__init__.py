"""blockferry moves the storage of running VMs on libvirt hosts. The public Python API is `blockferry.client`."""

__version__ = "0.1.0"
