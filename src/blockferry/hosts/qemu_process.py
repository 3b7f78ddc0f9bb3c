"""Which QEMU process a VM runs in, so exactly that it is not mistaken for a later one; and which QEMU that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.qemu_user import QemuUser
from blockferry.hosts.runner import Runner

# A constant: data reaches it as positional arguments only. libvirt's pidfile: /run/libvirt/qemu/NAME.pid for the
# system's instance, $XDG_RUNTIME_DIR/libvirt/qemu/run/NAME.pid for a user's.
_FIND = """\
if [ "$2" = session ]; then d="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/libvirt/qemu/run"; else d=/run/libvirt/qemu; fi
pid=$(cat "$d/$1.pid") || exit 1
"""
_LOOK = f"""\
{_FIND}\
cat /proc/sys/kernel/random/boot_id
cat "/proc/$pid/stat"
tr '\\0' '\\n' <"/proc/$pid/cmdline"
"""
# It answers although its file has been replaced or deleted since. We are root, and a QEMU out of which a guest has
# broken may have become another program by now: only what is QEMU's by its name, and root's or our own file, is run,
# and exactly what was looked at (descriptor 3).
_ASK = f"""\
{_FIND}\
tr '\\0' '\\n' <"/proc/$pid/cmdline" | grep -qxF -e "$3" || {{ echo "process $pid is not the VM's" >&2; exit 1; }}
exec 3<"/proc/$pid/exe" || exit 1
program=$(readlink /proc/self/fd/3)
echo "$program"
case "${{program##*/}}" in *qemu* | kvm*) ;; *) echo "$program is not called QEMU" >&2; exit 1 ;; esac
if [ -z "$(find -L /proc/self/fd/3 -maxdepth 0 '(' -uid 0 -o -uid "$(id -u)" ')' ! -perm /022)" ]; then
  echo "$program could have been written by others than root" >&2
  exit 1
fi
exec /proc/self/fd/3 --version
"""
_OWNER = f"""\
{_FIND}\
tr '\\0' '\\n' <"/proc/$pid/cmdline" | grep -qxF -e "$3" || {{ echo "process $pid is not the VM's" >&2; exit 1; }}
cat "/proc/$pid/status"
"""
# Whether the VM's QEMU lives, whatever libvirt says: its command line has "-uuid UUID". A grep that cannot do its work
# would find nothing and prove nothing, so it first has to find this shell itself.
_REMAINS = """\
boot=$(cat /proc/sys/kernel/random/boot_id) || exit 1
grep -qszxF -e "$1" "/proc/$$/cmdline" || exit 1
if [ "$2" != session ] && [ "$(id -u)" != 0 ] && grep -qE ' /proc proc [^ ]*hidepid=[^0o]' /proc/self/mounts; then
  echo hidden
fi
for file in $(grep -lszxF -e "$1" /proc/[0-9]*/cmdline); do
  tr '\\0' '\\n' <"$file" 2>/dev/null | grep -xF -A1 -e -uuid | grep -qxF -e "$1" || continue
  stat=$(cat "${file%/cmdline}/stat" 2>/dev/null) || continue
  printf '%s\\n' "$boot" "$stat"
done
exit 0
"""
_VERSION = re.compile(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class QemuProgram:
    """The QEMU that a VM runs in. `version` None: it cannot be told, and `problem` says why."""

    version: tuple[int, int, int] | None
    replaced: bool = False  # its file has been replaced or deleted since the VM was started
    problem: str = ""


def run_of(runner: Runner, uri: str, name: str, uuid: str) -> str | None:
    """Boot id, process id and start time of the VM's QEMU; None if it has none or cannot be told from others."""
    result = runner.run(["sh", "-c", _LOOK, "sh", name, _kind(uri)], check=False)
    lines = result.text.splitlines()
    if result.status != 0 or len(lines) < 3 or uuid not in lines[2:]:
        return None
    return _run(lines[0], lines[1])


@dataclass(frozen=True, slots=True)
class QemuPresence:
    """Whether a QEMU of a VM lives, seen past libvirt. With a `doubt` (a clause) None proves nothing."""

    pid: int | None = None
    run: str = ""  # as `run_of` gives it
    doubt: str = ""


def remains(runner: Runner, uri: str, uuid: str) -> QemuPresence:
    """The QEMU process of a VM that libvirt takes for off, by the UUID in its command line. Takes some 30 ms.

    Anybody may read command lines, unless /proc hides other users' processes (proc(5), hidepid). Raises
    HostUnreachable.
    """
    try:
        result = runner.run(["sh", "-c", _REMAINS, "sh", uuid, _kind(uri)], timeout_s=30)
    except HostCommandFailed as error:
        return QemuPresence(doubt=f"the host's processes cannot be looked at: {error.sentence.rstrip('.')}")
    lines = result.text.splitlines()
    hidden = lines[:1] == ["hidden"]
    for boot, stat in zip(lines[hidden::2], lines[hidden + 1 :: 2], strict=False):
        return QemuPresence(int(stat.split(" ", 1)[0]), _run(boot, stat))
    return QemuPresence(doubt="the host hides other users' processes (hidepid)" if hidden else "")


def program_of(runner: Runner, uri: str, name: str, uuid: str) -> QemuProgram:
    """The QEMU of a VM that runs: not the installed one where that was updated since, or where it has its own."""
    try:
        result = runner.run(["sh", "-c", _ASK, "sh", name, _kind(uri), uuid], check=False, timeout_s=30)
    except HostCommandFailed as error:
        return QemuProgram(None, problem=error.sentence.rstrip("."))
    path, _, said = result.text.partition("\n")
    replaced = path.endswith(" (deleted)")
    if (match := _VERSION.match(said)) is not None:
        return QemuProgram((int(match[1]), int(match[2]), int(match[3] or 0)), replaced)
    why = (result.stderr.strip().splitlines() or ["its program does not tell it"])[-1]
    return QemuProgram(None, replaced, why)


def user_of(runner: Runner, uri: str, name: str, uuid: str) -> QemuUser | None:
    """The user and groups with which a running VM's QEMU opens files; None if that cannot be told."""
    result = runner.run(["sh", "-c", _OWNER, "sh", name, _kind(uri), uuid], check=False, timeout_s=30)
    fields = dict(line.split(":", 1) for line in result.text.splitlines() if ":" in line)
    if result.status != 0 or not {"Uid", "Gid", "Groups"} <= fields.keys():
        return None
    uid, gid = (int(fields[name].split()[3]) for name in ("Uid", "Gid"))  # of file systems, proc(5)
    return QemuUser(uid, gid, tuple(map(int, fields["Groups"].split())))


def _run(boot: str, stat: str) -> str:
    fields = stat.rpartition(")")[2].split()  # the name before may hold spaces and brackets (proc(5))
    return f"{boot.strip()}/{stat.split(' ', 1)[0]}/{fields[19]}"


def _kind(uri: str) -> str:
    return "session" if urlsplit(uri).path.endswith("session") else "system"
