"""Faults on purpose, thousands of times: the real command line under the judge, on a real host; docs/reliability.md.

`python -m faults` runs a matrix of fault x place x method x disks. It imports nothing of blockferry: it types its
commands, as a user does, and asks libvirt, the files and the judge in the guest what is true afterwards.
"""
