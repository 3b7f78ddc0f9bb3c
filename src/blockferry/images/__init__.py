"""The only door to files and programs on the host that holds the disks.

`runner` runs programs there (here, or through the system's ssh); `files` and `qemuimg` know the programs;
`users` finds out who has an image open. Paths are absolute and belong to the runner's host.
"""
