"""Image files: qemu-img, conversion, reflinks, network exports."""
