"""Making the files of a host, and knowing what is in them: digests of plain files, raw models of disk images.

The model of an image is a raw file with what a guest would read. Each write goes to the model as well as to the image.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.process import run
from zoo.spec import File

KIB = 1024
BLOCK = 64 * KIB
IMAGES = ("qcow2", "raw")
WRITABLE = (*IMAGES, "floppy", "nvdimm", "vars")


@dataclass(slots=True)
class Model:
    """The newest content of everything, as it was written. Places are keys of `plain` and `images`.

    `images`: raw file that reads as the image does. `disks`: the same for (VM, target), written to by the guest.
    `frozen`: for (VM, snapshot, target), what the snapshot holds.
    """

    directory: Path
    plain: dict[str, str] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)
    disks: dict[tuple[str, str], Path] = field(default_factory=dict)
    frozen: dict[tuple[str, str, str], Path] = field(default_factory=dict)

    def new(self, source: Path | None = None) -> Path:
        """A new raw model, empty or a copy of another."""
        path = self.directory / f"{len(list(self.directory.iterdir()))}.raw"
        if source is None:
            path.touch()
        else:
            run(["cp", "--sparse=always", source, path])
        return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes. Holes are skipped and count as what they are: a hole reads as zeros."""
    found = hashlib.sha256()
    zeros = bytes(BLOCK)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole up to the end
                break
            at = data - data % BLOCK
            os.lseek(file.fileno(), at, os.SEEK_SET)
            piece = file.read(BLOCK)
            if not piece:
                break
            if piece != zeros[: len(piece)]:  # a block of zeros counts the same, allocated or not
                found.update(at.to_bytes(8, "big"))
                found.update(piece)
            at += len(piece)
    found.update(size.to_bytes(8, "big"))
    return found.hexdigest()


def patterns(number: int, size_kib: int) -> list[tuple[int, int]]:
    """(offset, byte) of the blocks that an image of this number has data in. Never the first block: nothing boots."""
    blocks = size_kib * KIB // BLOCK
    places = {(number * 7 + step * (blocks // 5 + 1)) % (blocks - 1) + 1 for step in range(4)} if blocks > 1 else set()
    return [(place * BLOCK, (number * 31 + place) % 251 + 1) for place in sorted(places)]


def write_model(path: Path, writes: list[tuple[int, int]]) -> None:
    with path.open("r+b") as file:
        for offset, byte in writes:
            file.seek(offset)
            file.write(bytes([byte]) * BLOCK)


def qemu_io(path: Path, image_format: str, writes: list[tuple[int, int]]) -> None:
    """Write the blocks into an image that nobody has open."""
    words = [word for offset, byte in writes for word in ("-c", f"write -q -P {byte} {offset} {BLOCK}")]
    run(["qemu-io", "-f", image_format, *words, path])


def same_content(model: Path, image: Path, image_format: str) -> str | None:
    """None when the image reads like its model; else what differs, or why it cannot be read."""
    done = run(["qemu-img", "compare", "-U", "-f", "raw", "-F", image_format, model, _name(image)], check=False)
    return None if done.returncode == 0 else (done.stdout.strip() or done.stderr.strip())


def _name(image: Path) -> str:
    """As qemu-img is told: a name with a colon in it is no protocol. A block device goes by its path."""
    return str(image) if str(image).startswith("/dev/") else f"file:{image}"


def chain(path: Path, image_format: str = "") -> list[Path]:
    """The image and everything below it, by qemu-img. Raises LabError when it cannot be read."""
    words = ["-f", image_format] if image_format else []
    said = run(["qemu-img", "info", "-U", *words, "--backing-chain", "--output", "json", f"file:{path}"]).stdout
    return [Path(load["filename"].removeprefix("file:")) for load in json.loads(said)]


# -- making -----------------------------------------------------------------------------------------------------------


def qemu_user() -> tuple[int, int]:
    """User and group that Debian's libvirt runs QEMU as; root where there are none."""
    try:
        return pwd.getpwnam("libvirt-qemu").pw_uid, grp.getgrnam("libvirt-qemu").gr_gid
    except KeyError:
        return 0, 0


def make(
    file: File,
    real: Callable[[str], Path],
    model: Model,
    formats: dict[str, str],
    *,
    profile: str = "default",
    named_as: str = "",
) -> None:
    """Make the file, and its model. `formats`: of the images made so far, by place.

    profile: with "fixed", where libvirt changes no owner, what QEMU writes to is given to its user, as an
    administrator has to do there.
    named_as: the place of the link by which a VM names an image, "" when it names the file itself.
    """
    path = real(file.place)
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.kind in IMAGES:
        _image(file, real(named_as) if named_as else path, real, model, formats)
        formats[file.place] = file.kind
    elif file.kind == "dir":
        path.mkdir(exist_ok=True)
    elif file.kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o666)
    elif file.kind == "link":
        path.symlink_to(real(file.target))
    else:
        path.write_bytes(plain_content(file))
        model.plain[file.place] = digest(path)
    if file.kind != "link":
        if file.owner == "qemu" or (profile == "fixed" and file.kind in WRITABLE and not file.owner):
            os.chown(path, *qemu_user())
        elif file.owner:
            user, _, group = file.owner.partition(":")
            os.chown(path, int(user), int(group))
        if file.mode:
            path.chmod(file.mode)


def _image(file: File, path: Path, real: Callable[[str], Path], model: Model, formats: dict[str, str]) -> None:
    """Make an image by the name that a VM gives it: QEMU takes a relative backing file to be beside the name, also
    where the name is a link to another directory."""
    below = []
    if file.backing:
        backing = real(file.backing)
        relative = os.path.relpath(os.path.realpath(backing), os.path.realpath(path.parent))
        shown = relative if file.backing_as == "relative" else str(backing)
        below = ["-F", formats[file.backing], "-b", shown]
    run(["qemu-img", "create", "-q", "-f", file.kind, *below, path, f"{file.size_kib}K"])
    raw = model.new(model.images[file.backing] if file.backing else None)
    with raw.open("r+b") as opened:
        opened.truncate(file.size_kib * KIB)
    writes = patterns(file.number, file.size_kib)
    write_model(raw, writes)
    qemu_io(path, file.kind, writes)
    if file.bitmap:
        run(["qemu-img", "bitmap", "--add", "--enable", "-f", "qcow2", path, file.bitmap])
    model.images[file.place] = raw


def plain_content(file: File) -> bytes:
    """What a file that is no image begins with: something that QEMU takes where it looks inside."""
    size = file.size_kib * KIB
    line = f"{file.kind} {file.number} {os.path.basename(file.place)}\n".encode()
    if file.kind in ("bios", "code"):  # cli; hlt; and again: a guest that costs no processor time
        return b"\xff" * (size - 16) + b"\xfa\xf4\xeb\xfd" + b"\xff" * 12
    if file.kind == "kernel":
        return _multiboot() + line.ljust(size - 32, b"k")
    if file.kind in ("text", "log"):
        return line * 8
    return (line * (size // len(line) + 1))[:size]


def _multiboot() -> bytes:
    """The header by which QEMU takes a file for a kernel that it loads at 1 MiB (the Multiboot specification, 3.1)."""
    magic, flags, base = 0x1BADB002, 0x00010000, 0x100000
    numbers = (magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, 0, 0, base + 32)
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def bitmaps(path: Path) -> set[str]:
    """Names of the persistent bitmaps in a qcow2. Raises LabError when it cannot be read."""
    said = run(["qemu-img", "info", "-U", "--output", "json", f"file:{path}"]).stdout
    data = json.loads(said).get("format-specific", {}).get("data", {})
    return {str(one["name"]) for one in data.get("bitmaps") or ()}


def empty_directory(path: Path) -> None:
    """Remove what is in a directory, but not what mkfs puts there."""
    for entry in path.iterdir():
        if entry.name == "lost+found":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def same_snapshot(model: Path, image: Path, name: str) -> str | None:
    """None when the internal snapshot holds what its model does; else what differs, or why it cannot be read."""
    copy = model.with_suffix(".snapshot")
    done = run(
        ["qemu-img", "convert", "-U", "-l", f"snapshot.name={name}", "-O", "raw", f"file:{image}", copy], check=False
    )
    if done.returncode != 0:
        return done.stderr.strip()
    try:
        return same_content(model, copy, "raw")
    finally:
        copy.unlink()
