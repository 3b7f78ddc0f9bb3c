"""Block jobs, the suspension, the instant of the switch, and what libvirt's configuration names."""
