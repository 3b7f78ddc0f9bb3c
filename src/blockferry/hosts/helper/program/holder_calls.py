"""Calls of the process that runs a move to another host: each is refused once another process runs the move.

Who runs a move says so on both hosts before it decides anything: a note with its number (the token of its lease in the
journal, which only grows; and a count of its own). A call bears the number of its sender and is carried out under the
lock of the move, in one step with a look at the note. So the call of a process that was frozen, or one that lay in a
cut link, finds a newer number or, after the move, none, and does nothing (docs/design/host-move.md).

The lock is held until what was called has ended, whatever becomes of us: the program that we run has it, too. So
whoever takes the move over waits for a call that is being carried out, and sees what it has done.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from blockferry.hosts.helper.program import serving, state_directory
from blockferry.hosts.helper.program.streaming import Stream

Json = dict[str, Any]
Number = list[int]

BUSY_S = 5.0
BUSY_STEP_S = 0.02
"""A call waits so long for another one that is being carried out; then its sender is told, and asks again."""

KEPT = "/var/lib/blockferry/definitions"
"""Where a definition is kept, by root, before libvirt removes it. Others: below ~/.local/state."""

OUTGOING = "Outgoing migration"
"""virsh's word for VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT (tools/virsh-domain.c), in the language C."""

HOLDER = "holder"
OLD = "old"
NONE = "none"
BUSY = "busy"
"""What the note says of whoever calls: it runs the move; another process has taken it over; there is no note (the host
was started again, or the move is over); nothing yet, for another call of this move is being carried out."""


def note_path(move: str) -> str:
    return f"{state_directory.path()}/holder-{move}"


def noted(move: str) -> Number | None:
    """Return the number in the note; None when there is none. Raises OSError."""
    try:
        with open(note_path(move)) as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def locked(move: str, seconds: float = BUSY_S) -> Iterator[int | None]:
    """The lock of the move, a descriptor that may be given to a program; None when it could not be had in time."""
    path = f"{note_path(move)}.lock"
    until = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            if _take(descriptor, path):
                try:
                    yield descriptor
                finally:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # a program that has it, too, does not keep it
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > until:
            yield None
            return
        time.sleep(BUSY_STEP_S)


def _take(descriptor: int, path: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # not one that `forget` has just removed
    except (BlockingIOError, FileNotFoundError):
        return False


def standing(move: str, number: Number) -> str:
    """Return what the note says of this number: HOLDER, OLD or NONE. The lock is held."""
    found = noted(move)
    return NONE if found is None else HOLDER if found == number else OLD


def hold(move: str, number: Number) -> str:
    """From now on the process with this number runs the move; no call with a smaller one is carried out any more.

    Return HOLDER; OLD when a newer one has said so before; BUSY. Raises OSError.
    """
    with locked(move) as lock:
        if lock is None:
            return BUSY
        found = noted(move)
        if found is not None and found > number:
            return OLD
        new = f"{note_path(move)}.new"
        with open(new, "w") as file:
            file.write(" ".join(map(str, number)))
        os.replace(new, note_path(move))
    return HOLDER


def forget(move: str, number: Number) -> str:
    """The move is over: remove the note, if it is of this number. No call is carried out after that."""
    with locked(move) as lock:
        if lock is None:
            return BUSY
        found = standing(move, number)
        if found is not OLD:
            for path in (note_path(move), f"{note_path(move)}.lock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    return found


def under(move: str, number: Number, act: Callable[[int], Any]) -> Json:
    """Return {"result": what `act` returns}, or {"refused": OLD, NONE or BUSY}. `act` is given the lock."""
    with locked(move) as lock:
        if lock is None:
            return {"refused": BUSY}
        found = standing(move, number)
        return {"result": act(lock)} if found is HOLDER else {"refused": found}


def call(stream: Stream, move: str, number: Number, what: str, words: Json) -> Json:
    """Another call of this program, by its name."""
    return under(move, number, lambda _lock: serving.find(what, stream)(**words))


def run(move: str, number: Number, argv: list[str], data: str) -> Json:
    """A program, to its end. `data`: its standard input, base64. It ends with us."""
    return under(move, number, lambda lock: ran(lock, argv, base64.b64decode(data)))


def virsh(move: str, number: Number, uri: str, words: list[str], texts: dict[str, str]) -> Json:
    """virsh to its end, however long libvirt takes. `texts`: name -> text of the file that the word `@NAME` stands for.

    It does not end with us, but keeps the lock: libvirt may carry out yet what it was told.
    """
    return under(move, number, lambda lock: ran_virsh(lock, uri, words, texts))


def undefine(move: str, number: Number, uri: str, uuid: str, words: list[str]) -> Json:
    """Remove the VM's definition, after it was written to a file of this host: see `kept_path`."""
    return under(move, number, lambda lock: _undefine(lock, move, uri, uuid, words))


def _undefine(lock: int, move: str, uri: str, uuid: str, words: list[str]) -> Json:
    defined = ran_virsh(lock, uri, ["list", "--all", "--persistent", "--uuid"], {})
    if defined["status"] == 0 and uuid not in text_of(defined).split():
        return defined
    described = _keep(lock, move, uri, uuid)
    return described if described["status"] != 0 else ran_virsh(lock, uri, ["undefine", *words, uuid], {})


def keep_definition(move: str, number: Number, uri: str, uuid: str) -> Json:
    """Write the VM's definition to a file of this host: libvirt removes it when a migration ends."""
    return under(move, number, lambda lock: _keep(lock, move, uri, uuid))


def _keep(lock: int, move: str, uri: str, uuid: str) -> Json:
    described = ran_virsh(lock, uri, ["dumpxml", "--inactive", "--security-info", uuid], {})
    if described["status"] == 0:
        keep(move, uuid, text_of(described))
    return described


def abort(move: str, number: Number, uri: str, uuid: str) -> Json:
    """End the VM's migration to another host; another job of libvirt's (a backup) is somebody else's, and goes on."""
    return under(move, number, lambda lock: _abort(lock, uri, uuid))


def _abort(lock: int, uri: str, uuid: str) -> Json:
    told = ran_virsh(lock, uri, ["domjobinfo", uuid], {})
    if told["status"] != 0 or OUTGOING not in text_of(told):
        return told
    return ran_virsh(lock, uri, ["domjobabort", uuid], {})


def kept_path(move: str, uuid: str) -> str:
    """Where this move keeps a definition that it removes here."""
    home = KEPT if os.geteuid() == 0 else os.path.expanduser("~/.local/state/blockferry/definitions")
    return f"{home}/{uuid}-{move}.xml"


def keep(move: str, uuid: str, xml: str) -> None:
    """Write a definition to its file, readable for nobody else; it is on the disk when this returns. Raises OSError."""
    path = kept_path(move, uuid)
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:
        file.write(xml)
        file.flush()
        os.fsync(descriptor)
    os.replace(f"{path}.new", path)
    while True:  # a directory that was just made is there after a loss of power only once those above it are flushed
        above = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)
        if directory in ("/", "/var/lib", os.path.expanduser("~")):
            return
        directory = os.path.dirname(directory)


def kept(move: str, uuid: str) -> Json:
    """Return the file's name, and what is in it: None when this move keeps no definition here."""
    path = kept_path(move, uuid)
    try:
        with open(path) as file:
            return {"path": path, "xml": file.read()}
    except FileNotFoundError:
        return {"path": path, "xml": None}


def drop(move: str, number: Number, uuid: str) -> Json:
    """Remove that file: libvirt has the definition again, here or at the other host."""

    def dropped(_lock: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept_path(move, uuid))

    return under(move, number, dropped)


# ------------------------------------------------------------ programs


def text_of(done: Json) -> str:
    return base64.b64decode(done["out"]).decode("utf-8", "surrogateescape")


def ran(lock: int, argv: list[str], data: bytes = b"", *, stays: bool = False, files: tuple[int, ...] = ()) -> Json:
    """Run a program, which has the lock, too: its exit status, its output (base64), what it said of errors."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C", "LANGUAGE": ""},
        start_new_session=stays,
        pass_fds=(lock, *files),
    ) as process:
        out, words = process.communicate(data)
    status = process.returncode
    return {
        "status": status if status >= 0 else 128 - status,
        "out": base64.b64encode(out).decode(),
        "words": words.decode("utf-8", "replace"),
    }


def ran_virsh(lock: int, uri: str, words: list[str], texts: dict[str, str]) -> Json:
    with as_files(texts) as files:
        return ran(lock, argv_of(uri, words, files), stays=True, files=tuple(files.values()))


def argv_of(uri: str, words: list[str], files: dict[str, int]) -> list[str]:
    """virsh's argument list. Without keepalive: it ends when libvirt has answered, or when libvirt has ended."""
    named = {f"@{name}": f"/dev/fd/{descriptor}" for name, descriptor in files.items()}
    return ["virsh", "-q", "-k", "0", "-c", uri, *(named.get(word, word) for word in words)]


@contextlib.contextmanager
def as_files(texts: dict[str, str]) -> Iterator[dict[str, int]]:
    """Descriptors of files in memory: what is secret in a definition is on no disk, and in no argument list."""
    found: dict[str, int] = {}
    try:
        for name, text in texts.items():
            found[name] = os.memfd_create(f"blockferry-{name}", os.MFD_CLOEXEC)
            data = memoryview(text.encode("utf-8", "surrogateescape"))
            while data:
                data = data[os.write(found[name], data) :]
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def problem(uri: str) -> str:
    """Return why calls cannot be carried out by this host, a clause; "" when they can."""
    why = state_directory.problem()
    if why:
        return why
    try:
        done = subprocess.run(
            ["virsh", "-q", "-c", uri, "uri"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return "virsh is not installed"
    except subprocess.TimeoutExpired:
        return f"virsh has no answer from {uri}"
    return "" if done.returncode == 0 else f"virsh cannot connect to {uri}"


STREAMS: dict[str, Callable[..., Any]] = {"call": call}
CALLS: dict[str, Callable[..., Any]] = {
    "hold": hold,
    "forget": forget,
    "run": run,
    "virsh": virsh,
    "undefine": undefine,
    "keep": keep_definition,
    "abort": abort,
    "kept": kept,
    "drop": drop,
    "problem": problem,
}
