"""The benchmark: blockferry beside plain virsh, qemu-img and dd, in one run. See docs/performance.md."""
