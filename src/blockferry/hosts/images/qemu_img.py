"""What qemu-img knows of images: their chain, what they hold, whether they are sound; and creating them.

A format that is given is always passed on. Letting QEMU probe a raw image would let a guest decide what its disk
is: it can write a qcow2 header that names any file of the host as its backing file (CVE-2008-2004).
"""

from __future__ import annotations

import itertools
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from blockferry.base.errors import HostCommandFailed, ImageUnreadable, UsageError
from blockferry.hosts.helper.files import absolute, claim, realpath, remove_file, stat_many
from blockferry.hosts.runner import Runner

Preallocation = Literal["off", "metadata", "falloc", "full"]
Backing = tuple[str, str]
"""A backing file's path and format."""

SECTOR = 512
DEFAULT_CLUSTER = 64 * 1024
_SECTOR_FORMATS = frozenset({"qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "parallels"})


@dataclass(frozen=True, slots=True)
class ChainImage:
    """One image of a backing chain. `allocation` and `virtual_size` are bytes.

    `virtual_size` of a raw file is the file's size to the byte, where qemu-img rounds up to sectors.
    `backing_path` is absolute, or QEMU's own notation (`nbd://...`, `json:...`) if it is no file.
    `dirty`: a qcow2 whose reference counts need repair (lazy_refcounts, or a crash); `corrupt`: QEMU has marked
    it so and opens it read-only.
    `parts`: the other files that its content lies in (a qcow2's data file, the extents of a VMDK).
    """

    path: str
    format: str
    virtual_size: int
    allocation: int
    backing_path: str | None
    backing_format: str | None
    internal_snapshots: tuple[str, ...]
    bitmaps: tuple[str, ...]
    encrypted: bool
    compat: str | None
    data_file: str | None
    dirty: bool
    corrupt: bool
    cluster_size: int | None
    extended_l2: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What `qemu-img check` found: `corruptions` endanger data, `leaks` only waste space."""

    corruptions: int
    leaks: int
    supported: bool
    """False for formats that cannot be checked (raw): then nothing is known, which is not a fault."""

    @property
    def sound(self) -> bool:
        """No corruption is known."""
        return self.corruptions == 0


@dataclass(frozen=True, slots=True)
class Measure:
    """Bytes that a qcow2 would need: as the content is now, and when every sector is written."""

    required: int
    fully_allocated: int
    bitmaps: int

    def data(self, virtual_size: int, cluster_size: int = DEFAULT_CLUSTER) -> int:
        """Bytes in clusters that do not read as zeros: what a copy reads and writes."""
        tables = self.fully_allocated - -(-virtual_size // cluster_size) * cluster_size
        return max(0, self.required - tables)


def version(runner: Runner) -> tuple[int, int, int]:
    """qemu-img's version. Raises HostCommandFailed if it is not installed."""
    text = runner.run(["qemu-img", "--version"]).text
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        raise HostCommandFailed("qemu-img --version", 0, f"It says {text.strip()!r}, which holds no version.")
    return int(match[1]), int(match[2]), int(match[3])


def chain(runner: Runner, path: str, format: str | None = None) -> tuple[ChainImage, ...]:
    """The image and everything below it, top first; also while a VM has it open (numbers are then of a moment).

    Leave `format` out only for images that no guest can write as raw. A backing file whose format its overlay
    does not name is accepted only if it is raw, as libvirt does.
    Raises ImageUnreadable (absent, damaged, a layer missing, no or a wrong format), HostCommandFailed.
    """
    absolute(path)
    argv = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", *_format(format), "--", path]
    infos: list[dict[str, Any]] = json.loads(_reading(runner, path, argv))
    return layers_of(runner, path, infos)


def layers_of(runner: Runner, path: str, infos: Sequence[dict[str, Any]]) -> tuple[ChainImage, ...]:
    """The chain of an image from what `qemu-img info --backing-chain` says of it. Raises as `chain`."""
    layers = [_layer(info) for info in infos]
    layers[0] = replace(layers[0], path=path)
    layers = _without_dots(runner, layers)
    layers = [replace(layer, parts=_absolute(layer)) for layer in layers]
    for upper, lower in itertools.pairwise(layers):
        if upper.backing_format is None and lower.format != "raw":
            raise ImageUnreadable(
                upper.path,
                f"It does not say of which format its backing file {lower.path} is. If {lower.format} is right: "
                f"`qemu-img rebase -u -b BACKING -F {lower.format} IMAGE` while the VM is off.",
            )
    raw = [layer.path for layer in layers if layer.format == "raw" and layer.path.startswith("/")]
    found = stat_many(runner, raw)
    sizes = {raw_path: one.size for raw_path, one in found.items() if one and one.kind == "file"}
    return tuple(
        replace(layer, virtual_size=sizes[layer.path]) if layer.format == "raw" and layer.path in sizes else layer
        for layer in layers
    )


def _without_dots(runner: Runner, layers: list[ChainImage]) -> list[ChainImage]:
    """The layers, with no `..` in the path of one that an overlay names relative to itself.

    QEMU says `/srv/pool/web01/../base.qcow2`, which leads nowhere once the directory web01 is gone: an image made
    on it would have lost its backing file with the old home.
    """
    plain: dict[str, str] = {}
    for layer in layers[1:]:
        directory, name = posixpath.split(layer.path)
        if layer.path.startswith("/") and ".." in directory.split("/"):
            plain[layer.path] = posixpath.join(realpath(runner, directory), name)
    return [
        replace(
            layer,
            path=plain.get(layer.path, layer.path),
            backing_path=plain.get(layer.backing_path, layer.backing_path) if layer.backing_path else None,
        )
        for layer in layers
    ]


def luks_header(runner: Runner, path: str) -> int | None:
    """Bytes before the content of a LUKS image, keys included; None if it is none. The passphrase is not needed."""
    absolute(path)
    argv = ["qemu-img", "info", "-U", "--output=json", "-f", "luks", "--", path]
    try:
        info = json.loads(_reading(runner, path, argv))
    except ImageUnreadable:
        return None
    return int(info["format-specific"]["data"]["payload-offset"])


def holdable_size(format: str, size: int) -> int:
    """The virtual size that an image of this format has when `size` bytes are asked for: raw holds any number of
    bytes, the others whole sectors of 512. Raises UsageError for formats whose rounding is not known (vpc)."""
    if format == "raw":
        return size
    if format not in _SECTOR_FORMATS:
        raise UsageError(f"blockferry does not create images of format {format}.", "Use raw or qcow2.")
    return -(-size // SECTOR) * SECTOR


def creation_options(
    preallocation: str = "off", cluster_size: int | None = None, *, extended_l2: bool = False
) -> list[str]:
    """qemu-img's words (`-o`) for what a new image is to be, as far as it is not QEMU's default."""
    options = [f"preallocation={preallocation}"] if preallocation != "off" else []
    options += [f"cluster_size={cluster_size}"] if cluster_size else []
    return [*options, *(["extended_l2=on"] if extended_l2 else [])]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a new image is.

    `claimed` is called when the file is there, empty, and is ours. `still_ours` is called before anything is begun or
    taken away again; it raises when somebody else has taken the work over while this process stood still: what is at
    that path is theirs then, and stays.
    """

    claimed: Callable[[], None] = _nothing
    still_ours: Callable[[], None] = _nothing


NOBODY_ELSE = Ownership()


def create(
    runner: Runner,
    path: str,
    format: str,
    virtual_size: int,
    *,
    preallocation: Preallocation = "off",
    backing: Backing | None = None,
    cluster_size: int | None = None,
    extended_l2: bool = False,
    compat: str = "1.1",
    ownership: Ownership = NOBODY_ELSE,
) -> None:
    """Create an image of mode 0600 that was not there before; it reads as zeros (or as its backing file).

    Raw has no metadata: there `metadata` means off. Owner and labels are left to libvirt.
    Raises FileExists (nothing is overwritten; after a crash remove the leftover first), UsageError,
    HostCommandFailed; whatever was begun is removed again, unless it is somebody else's by now (`Ownership`).
    """
    absolute(path)
    size = holdable_size(format, virtual_size)
    if format == "raw" and backing is not None:
        raise UsageError("A raw image cannot have a backing file.", "Use qcow2.")
    claim(runner, path)
    try:
        ownership.claimed()
        if format == "raw":
            _fill_raw(runner, path, size, preallocation)
        else:
            options = creation_options(preallocation, cluster_size, extended_l2=extended_l2)
            options += [f"compat={compat}"] if format == "qcow2" else []
            argv = ["qemu-img", "create", "-q", "-f", format]
            argv += ["-o", ",".join(options)] if options else []
            # -u: the size is given, so the backing file (which a VM may have open) is not looked at
            argv += ["-u", "-b", backing[0], "-F", backing[1]] if backing else []
            runner.run([*argv, "--", path, str(size)])
    except BaseException:
        ownership.still_ours()
        remove_file(runner, path)
        raise


def check(runner: Runner, path: str, format: str) -> ImageCheck:
    """Whether the image's own structure is sound; only meaningful while nothing writes to it. Changes nothing.

    Raises ImageUnreadable.
    """
    absolute(path)
    argv = ["qemu-img", "check", "-U", "-f", format, "--output=json", "--", path]
    result = runner.run(argv, check=False)
    if result.status == 63:
        return ImageCheck(0, 0, supported=False)
    # 2: corruptions, 3: leaks only; 0 and these come with a report
    if result.status not in (0, 2, 3):
        raise ImageUnreadable(path, _words(result.stderr, path))
    report = json.loads(result.stdout)
    if report.get("check-errors", 0):
        raise ImageUnreadable(path, f"The check itself met {report['check-errors']} errors.")
    return ImageCheck(report.get("corruptions", 0), report.get("leaks", 0), supported=True)


def repair_leaks(runner: Runner, path: str) -> None:
    """Give back what a qcow2 whose QEMU died holds without need. No harm if it cannot: leaks only waste space."""
    absolute(path)
    runner.run(["qemu-img", "check", "-q", "-r", "leaks", "-f", "qcow2", "--", path], check=False)


def commit(runner: Runner, overlay: str) -> None:
    """Write a qcow2 overlay's content into its backing file; the overlay stays as it is. Nobody uses either.

    May be repeated. On disk when this returns. Raises HostCommandFailed.
    """
    absolute(overlay)
    runner.run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", "--", overlay])


def holds_data(runner: Runner, overlay: str) -> bool:
    """Whether a qcow2 overlay has anything of its own; else it reads like its backing file. Raises ImageUnreadable."""
    absolute(overlay)
    argv = ["qemu-img", "map", "-U", "-f", "qcow2", "--output=json", "--", overlay]
    return any(load["depth"] == 0 and load.get("present", True) for load in json.loads(_reading(runner, overlay, argv)))


def measure(runner: Runner, path: str, format: str, options: Sequence[str] = (), *, alone: bool = False) -> Measure:
    """The bytes that a qcow2 of these creation options needs for the image's content, its whole chain flattened.

    `alone`: only what the image itself holds, without what it stands on. What a raw file will take is not asked for:
    QEMU answers with its length, holes and all (raw_measure in its block/raw-format.c); see Measure.data.
    Raises ImageUnreadable.
    """
    absolute(path)
    argv = [
        "qemu-img",
        "measure",
        "-U",
        "--output=json",
        "-O",
        "qcow2",
        *(["-o", ",".join(options)] if options else []),
    ]
    if alone and format == "qcow2":
        node = {"driver": format, "file": {"driver": "file", "filename": path}, "backing": None}
        argv += [f"json:{json.dumps(node)}"]
    else:
        argv += ["-f", format, "--", path]
    report = json.loads(_reading(runner, path, argv))
    return Measure(report["required"], report["fully-allocated"], report.get("bitmaps", 0))


def _fill_raw(runner: Runner, path: str, size: int, preallocation: Preallocation) -> None:
    if preallocation == "full":
        runner.run(["qemu-img", "create", "-q", "-f", "raw", "-o", "preallocation=full", "--", path, str(size)])
    elif preallocation == "falloc" and size > 0:
        # --posix: where the file system cannot allocate (NFS before 4.2) zeros are written; nobody else has it open
        runner.run(["fallocate", "--posix", "--length", str(size), "--", path])
    runner.run(["truncate", "--no-create", f"--size={size}", "--", path])


def _format(format: str | None) -> list[str]:
    return ["-f", format] if format else []


def _reading(runner: Runner, path: str, argv: list[str]) -> bytes:
    result = runner.run(argv, check=False)
    if result.status != 0:
        raise failed(path, result.status, result.stderr)
    return result.stdout


def failed(path: str, status: int, stderr: str) -> ImageUnreadable | HostCommandFailed:
    """The error that an exit status of qemu-img other than 0 stands for."""
    if status == 127:
        return HostCommandFailed("qemu-img", 127, stderr.strip())
    return ImageUnreadable(path, _words(stderr, path))


def _words(stderr: str, path: str) -> str:
    """qemu-img's own words without its name and the path, which the sentence around them has already."""
    words = stderr.strip().removeprefix("qemu-img: ").replace(f"Could not open '{path}': ", "")
    return words if words.endswith((".", "?")) else f"{words}."


def _layer(info: dict[str, Any]) -> ChainImage:
    specific: dict[str, Any] = info.get("format-specific", {}).get("data", {})
    backing = info.get("full-backing-filename") or info.get("backing-filename")
    data_file = specific.get("data-file")
    return ChainImage(
        path=plain_path(info["filename"]),
        format=info["format"],
        virtual_size=info["virtual-size"],
        allocation=info.get("actual-size", 0),
        backing_path=plain_path(backing) if backing else None,
        backing_format=info.get("backing-filename-format"),
        internal_snapshots=tuple(snapshot["name"] for snapshot in info.get("snapshots", ())),
        bitmaps=tuple(bitmap["name"] for bitmap in specific.get("bitmaps", ())),
        encrypted=bool(info.get("encrypted")) or info["format"] == "luks",
        compat=specific.get("compat"),
        data_file=plain_path(data_file) if data_file else None,
        dirty=bool(info.get("dirty-flag")),
        corrupt=bool(specific.get("corrupt")),
        cluster_size=info.get("cluster-size"),
        extended_l2=bool(specific.get("extended-l2")),
        parts=_parts(info),
    )


def _parts(info: dict[str, Any]) -> tuple[str, ...]:
    """The names of the other files that hold the image's content, as the image gives them.

    A VMDK's extents: https://www.vmware.com/app/vmdk/?src=vmdk, as `qemu-img info` lists them. One that is a
    file of its own (monolithicSparse, streamOptimized) names itself.
    """
    specific: dict[str, Any] = info.get("format-specific", {}).get("data", {})
    extents = [extent.get("filename", "") for extent in specific.get("extents", ())]
    names = [plain_path(name) for name in (specific.get("data-file", ""), *extents) if name]
    return tuple(dict.fromkeys(name for name in names if name != plain_path(info["filename"])))


def _absolute(layer: ChainImage) -> tuple[str, ...]:
    """The parts' paths: a relative name counts from the directory of the image that gives it."""
    directory = posixpath.dirname(layer.path)
    return tuple(posixpath.normpath(posixpath.join(directory, part)) for part in layer.parts)


def plain_path(filename: str) -> str:
    """The path behind `json:{"driver": "qcow2", "file": {"driver": "file", "filename": ...}}`, if it is a file."""
    if filename.startswith("file:"):
        return filename.removeprefix("file:")
    if not filename.startswith("json:"):
        return filename
    try:
        node = json.loads(filename.removeprefix("json:"))
        while isinstance(node.get("file"), dict):
            node = node["file"]
        path = node.get("filename", node.get("file.filename"))
    except (ValueError, AttributeError):
        return filename
    return path if isinstance(path, str) and path.startswith("/") else filename
