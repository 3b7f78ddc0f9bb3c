"""A host that is simulated behind our own interfaces: libvirt, QEMU, files and programs; with a manager that can die.

The real effects (`storage_move.effects.perform`), observer, decide and loop run against it. What it claims of libvirt
and of the host's helper is tested beside the real ones: tests/unit/test_simulated_files.py for files and qemu-img,
tests/system/test_simulated_contract.py for libvirt.

    machine.py      the host: files, VM, time, what happens to it; what may never happen is checked here
    clock.py        the time of blockferry's modules is that of the machine
    files.py        files and images in memory; what is on stable storage and what is only in the page cache
    qemu.py         a QEMU: its images, the guest's writes, block jobs
    domain.py       libvirt's domain: XML, states, errors with libvirt's own codes
    connection.py   libvirt's connection: domains, pools, events
    helper.py       the host's helper: the calls that hosts/runner.py sends to it
    programs.py     qemu-img and the other programs that run on the host
    manager.py      blockferry's process: it dies where it is told to, before or after any call to the outside
    moves.py        a move on all this, run by its real loop until it is over, by one process after the other
"""
