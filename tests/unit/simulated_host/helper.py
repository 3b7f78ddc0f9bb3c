"""The host's helper, and the programs that run there: hosts/runner.py's Runner over files in memory.

Errors cross as the real helper's do: by their number. What changes something is on disk when it returns.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import posixpath
from collections.abc import Callable, Sequence
from typing import Any

from blockferry.base.errors import BlockferryError, HostCallFailed, HostCommandFailed
from blockferry.hosts.process import Completed
from blockferry.hosts.runner import Runner
from simulated_host import programs
from simulated_host.files import Inode
from simulated_host.machine import Machine
from simulated_host.manager import Killed, Manager
from simulated_host.qemu import block_graph

LOOKS = frozenset(
    {
        *("files.stat", "files.there", "files.realpath", "files.link_target", "files.digest", "files.names"),
        *("files.read", "files.head", "files.same", "files.free", "files.mount_points", "files.filesystem"),
        *("files.writable", "files.existing", "users.look", "references.look", "images.chains", "bitmaps.usable"),
        "monitor.alive",
        "guard.noted",
        "holder.kept",
    }
)
"""Calls that change nothing: to die there is to die after the change before."""


class Answered:
    """hosts/helper/session.py's Pending, answered already."""

    def __init__(self, answer: Any, error: BaseException | None) -> None:
        self._answer, self._error = answer, error

    def wait(self, _seconds: float | None) -> bool:
        return True

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._answer

    def leave(self) -> None:
        pass


class SimulatedRunner(Runner):
    """Everything that goes to the host's files and programs, of one manager's process."""

    uri = "qemu:///system"

    def __init__(self, machine: Machine, manager: Manager) -> None:
        self._machine, self._manager = machine, manager
        self._files = machine.files

    # ------------------------------------------------------------ Runner

    def prepare(self) -> None:
        """See Runner."""

    def begin(self, do: str, *, repeat: bool = True, **words: Any) -> Answered:
        """See Runner."""
        try:
            return Answered(self.call(do, repeat=repeat, **words), None)
        except (Killed, BlockferryError) as error:
            return Answered(None, error)

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """See Runner."""
        del timeout_s, repeat
        room, _, name = do.partition(".")
        work: Callable[..., Any] = getattr(self, f"_{room}_{name}")
        with self._manager.calls(do, changes=do not in LOOKS):
            self._manager.must_live()
            try:
                answer = work(**words)
            except OSError as error:
                number = error.errno or errno.EIO
                what = f"{do} {error.filename}"
                raise HostCallFailed(what, 1, os.strerror(number), number, errno.errorcode[number]) from None
            if do not in LOOKS:
                self._machine.check()
        return answer

    def _guard_noted(self, uuid: str, suspension: str) -> str:
        del uuid
        return "over" if suspension in self._machine.ended else ""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> Completed:
        """See Runner."""
        del stdin, timeout_s
        with self._manager.calls(argv[0], changes=programs.changes(argv)):
            self._manager.must_live()
            done = programs.run(self._machine, argv)
            if programs.changes(argv):
                self._machine.check()
        if check and done.status:
            raise HostCommandFailed(" ".join(argv), done.status, done.stderr)
        return done

    def start(self, argv: Sequence[str]) -> Any:
        """See Runner."""
        with self._manager.calls(argv[0], changes=True):
            self._manager.must_live()
            return programs.start(self._machine, self._manager, argv)

    def start_own(self, module: str, wish: dict[str, Any], *, stays: bool = False, about: str = "") -> Any:
        """See Runner."""
        del stays, about
        with self._manager.calls(module, changes=True):
            self._manager.must_live()
            return programs.start_own(self._machine, self._manager, module, wish)

    # ------------------------------------------------------------ files

    def _files_stat(self, paths: list[str]) -> list[dict[str, Any]]:
        return [{"errno": errno.ENOENT} if path is None else self._stat(path) for path in map(self._files.get, paths)]

    def _stat(self, inode: Inode) -> dict[str, Any]:
        return {
            "device": inode.device,
            "inode": inode.number,
            "size": inode.size,
            "allocated": inode.allocated,
            "mtime_ns": inode.mtime,
            "ctime_ns": inode.ctime,
            "mode": self._files.mode_of(inode),
            "uid": inode.uid,
            "gid": inode.gid,
            "names": 1,
            "device_number": [0, 0],
        }

    def _files_there(self, path: str) -> bool:
        return self._files.get(path) is not None

    def _files_flush(self, path: str) -> None:
        self._files.find(path).flush()

    def _files_realpath(self, path: str) -> str:
        return posixpath.normpath(path)

    def _files_link_target(self, path: str) -> None:
        del path  # there are no links

    def _files_digest(self, path: str) -> str:
        return hashlib.sha256(self._files.find(path).data).hexdigest()

    def _files_rename(self, path: str, new: str) -> None:
        self._files.find(path)
        if self._files.get(new) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self._files.rename(path, new)

    def _files_make_directory(self, path: str, mode: int) -> bool:
        found = self._files.get(path)
        if found is not None and found.kind == "directory":
            return False
        self._files.create(path, mode, "directory")
        return True

    def _files_remove_directory(self, path: str) -> bool:
        if self._files.get(path) is None or self._files.below(path):
            return False
        del self._files.names[path]
        return True

    def _files_names(self, path: str) -> list[str]:
        return self._files.below(path)

    def _files_read(self, path: str) -> str:
        return base64.b64encode(self._files.find(path).data).decode()

    def _files_head(self, path: str, size: int) -> str:
        return base64.b64encode(self._files.find(path).data[:size]).decode()

    def _files_write(self, path: str, temporary: str, data: str, mode: int) -> None:
        del temporary
        self._files.write(path, base64.b64decode(data), mode)

    def _files_copy_aside(self, source: str, temporary: str) -> int:
        self._files.directory_of(temporary)
        self._files.names[temporary] = self._files.copy_of(source, temporary)
        return self._files.names[temporary].number

    def _files_put(self, temporary: str, inode: int, dest: str) -> None:
        if self._files.find(temporary).number != inode:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), temporary)
        self._machine.removing(dest)
        self._files.rename(temporary, dest)

    def _files_same(self, one: str, other: str) -> bool:
        first, second = self._files.find(one), self._files.find(other)
        return (first.data, first.image) == (second.data, second.image)

    def _files_remove(self, path: str) -> bool:
        if self._files.get(path) is None:
            return False
        self._machine.removing(path)
        self._files.unlink(path)
        return True

    def _files_claim(self, path: str) -> None:
        self._files.create(path, 0o600)

    def _files_appear(self, temporary: str, dest: str) -> bool:
        self._files.find(temporary)
        if self._files.get(dest) is not None:
            return False
        self._files.rename(temporary, dest)
        return True

    def _files_allocate(self, path: str, size: int) -> None:
        del size
        self._files.find(path)

    def _files_free(self, path: str) -> int:
        self._files.find(path)
        return 1 << 40

    def _files_mount_points(self, paths: list[str]) -> list[str]:
        return [self._files.mount_of(path) for path in paths]

    def _files_filesystem(self, path: str) -> str:
        self._files.find(path)
        return "xfs"

    def _files_writable(self, path: str) -> bool:
        found = self._files.get(path)
        return found is not None and found.kind == "directory"

    # ------------------------------------------------------------ owners

    def _owners_like(self, source: str, dest: str) -> list[list[Any]]:
        old, new = self._files.find(source), self._files.find(dest)
        new.uid, new.gid, new.mode = old.uid, old.gid, old.mode
        return []

    def _owners_give(self, dest: str, uid: int, gid: int, mode: int) -> list[list[Any]]:
        new = self._files.find(dest)
        new.uid, new.gid, new.mode = uid, gid, mode
        return []

    # ------------------------------------------------------------ who uses what

    def _users_look(self, paths: list[str], locks: bool = True) -> dict[str, Any]:
        found = {}
        for path in paths:
            inode = self._files.get(path)
            found[path] = {"errno": errno.ENOENT} if inode is None else self._users(inode, locks)
        return {"files": found, "unseen": 0, "doubts": [], "partly": 0}

    def _users(self, inode: Inode, locks: bool) -> dict[str, Any]:
        openers: list[tuple[int, str, bool, bool]] = []
        for disk in self._machine.qemu.disks.values() if self._machine.qemu is not None else ():
            if inode in disk.chain:
                openers.append((100, "qemu-system-x86", inode is disk.chain[0], True))
            if disk.job is not None and inode in disk.job.target:
                openers.append((100, "qemu-system-x86", inode is disk.job.target[0], True))
        for program in self._machine.programs:
            if inode in program.reads or inode in program.writes:
                openers.append((200, "qemu-img", inode in program.writes, False))
        used = {"used": bool(openers), "written": any(opener[2] for opener in openers)}
        return {"openers": sorted(set(openers)), "kernel": [], "locks": used if locks else {}}

    def _images_chains(self, images: list[tuple[str, str]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path, _format in images:
            try:
                chain = self._machine.chain_of(path)
            except OSError as error:
                found.append({"status": 1, "words": f"qemu-img: Could not open '{path}': {error.strerror}"})
                continue
            found.append({"layers": [[one, i.image.format, i.image.size, i.allocated] for one, i in chain if i.image]})
        return found

    def _paths_look(self, paths: list[str], mounted: bool = False) -> list[dict[str, Any]]:
        return [self._path_facts(path, mounted=mounted) for path in paths]

    def _path_facts(self, path: str, *, mounted: bool) -> dict[str, Any]:
        inode = self._files.get(path)
        if inode is None:
            return {"path": path, "resolved": path, "kind": "absent", "near": self._nearest(path)}
        facts = {"path": path, "resolved": path, "kind": inode.kind, "identity": [inode.device, inode.number]}
        if not mounted or inode.kind != "directory":
            return facts
        point = self._files.mount_of(path)
        device, below = self._files.mounts[point], posixpath.join("/", posixpath.relpath(path, point))
        place = {
            "kind": "xfs",
            "source": f"/dev/sd{device}",
            "path": posixpath.normpath(below),
            "uuid": f"uuid-{device}",
        }
        return {**facts, "mounted": place}

    def _references_look(self, paths: list[str], directories: list[str], images: list[str]) -> dict[str, Any]:
        del images
        mounts = {str(device): ["xfs", f"/dev/sd{device}"] for device in self._files.mounts.values()}
        return {
            "paths": {path: self._reference(path) for path in paths},
            "directories": {path: self._listing(path) for path in directories},
            "headers": {},
            "not_mounted": {},
            "mounts": sorted(self._files.mounts),
            "mounted": mounts,
        }

    def _reference(self, path: str) -> dict[str, Any]:
        one = self._files.get(path)
        if one is None:
            parent = posixpath.dirname(path)
            if self._files.get(parent) is None:
                return {"absent": f"elsewhere {self._nearest(parent)}"}
            return {"absent": ("gone " if self._files.below(parent) else "empty ") + parent}
        mount = self._files.mount_of(path)
        return {
            "device": one.device,
            "inode": one.number,
            "mode": self._files.mode_of(one),
            "size": one.size,
            "mtime_ns": one.mtime,
            "filesystem": "xfs",
            "exported": False,
            "capacity": 1 << 40,
            "place": [str(one.device), "/" + posixpath.relpath(path, mount)],
        }

    def _nearest(self, path: str) -> str:
        while self._files.get(path) is None:
            path = posixpath.dirname(path)
        return path

    def _listing(self, directory: str) -> dict[str, Any]:
        names = [name for name in self._files.names if name.startswith(directory.rstrip("/") + "/")]
        found = []
        for path in names:
            image = self._files.names[path].image
            if image is not None and image.backing is not None:
                found.append([path, [image.backing[0]]])
        return {"found": found, "unread": [], "count": len(names)}

    # ------------------------------------------------------------ QEMU's own monitor

    def _monitor_ask(self, pid: int, uuid: str, wish: str) -> dict[str, Any]:
        """Past libvirt (hosts/helper/program/monitor_calls.py)."""
        del pid, uuid
        qemu = self._machine.qemu
        if qemu is None:
            return {"problem": "process 100 is not its QEMU any more", "gone": False}
        did = False
        if wish == "cont" and qemu.paused and not qemu.guest_off:
            qemu.paused, did = False, True
        elif wish == "quit" and qemu.guest_off:
            self._machine.stop()
            return {"status": "shutdown", "block": [], "named": [], "jobs": [], "did": True}
        graph = block_graph(qemu)
        status = "shutdown" if qemu.guest_off else "paused" if qemu.paused else "running"
        jobs = [
            {"id": f"copy-{name}", "status": "running"} for name, disk in qemu.disks.items() if disk.job is not None
        ]
        return {
            "status": status,
            "block": graph["query-block"],
            "named": graph["query-named-block-nodes"],
            "jobs": jobs,
            "did": did,
        }

    def _monitor_alive(self, pid: int, uuid: str) -> bool:
        del pid, uuid
        return self._machine.qemu is not None

    def _bitmaps_usable(self) -> bool:
        return True
