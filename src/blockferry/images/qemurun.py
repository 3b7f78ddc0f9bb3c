"""Which QEMU process a VM runs in, so exactly that it is not mistaken for a later one."""

from __future__ import annotations

from urllib.parse import urlsplit

from blockferry.images.runner import Runner

# A constant: data reaches it as positional arguments only. libvirt's pidfile: /run/libvirt/qemu/NAME.pid for the
# system's instance, $XDG_RUNTIME_DIR/libvirt/qemu/run/NAME.pid for a user's.
_LOOK = """\
if [ "$2" = session ]; then d="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/libvirt/qemu/run"; else d=/run/libvirt/qemu; fi
pid=$(cat "$d/$1.pid") || exit 1
cat /proc/sys/kernel/random/boot_id
cat "/proc/$pid/stat"
tr '\\0' '\\n' <"/proc/$pid/cmdline"
"""


def run_of(runner: Runner, uri: str, name: str, uuid: str) -> str | None:
    """Boot id, process id and start time of the VM's QEMU; None if it has none or cannot be told from others."""
    kind = "session" if urlsplit(uri).path.endswith("session") else "system"
    result = runner.run(["sh", "-c", _LOOK, "sh", name, kind], check=False)
    lines = result.text.splitlines()
    if result.status != 0 or len(lines) < 3 or uuid not in lines[2:]:
        return None
    boot, stat = lines[0].strip(), lines[1]
    fields = stat.rpartition(")")[2].split()  # the name before may hold spaces and brackets (proc(5))
    return f"{boot}/{stat.split(' ', 1)[0]}/{fields[19]}"
