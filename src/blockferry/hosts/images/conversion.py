"""Long work of qemu-img on images that no VM writes to: copying them and comparing them.

Both report progress, can be stopped, and end with us (see `process`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blockferry.base.errors import HostCommandFailed, ImageUnreadable
from blockferry.base.units import KiB
from blockferry.hosts import exports
from blockferry.hosts.helper.files import absolute, claim, flush, remove_file, stat_one
from blockferry.hosts.images import network_exports
from blockferry.hosts.images.qemu_img import NOBODY_ELSE, Backing, Ownership, chain, check
from blockferry.hosts.process import Completed
from blockferry.hosts.runner import Runner

Progress = Callable[[float], None]
"""Called with the fraction done, 0.0 to 1.0, never falling."""
ShouldStop = Callable[[], bool]

_POLL_S = 0.2
_LARGEST_BLOCK = 64 * KiB
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_MISMATCH = re.compile(r"Content mismatch at offset (\d+)!")
_CACHE_LADDER = ("none", "writeback")


class ConversionStopped(Exception):
    """`should_stop` said so, and the program has ended. Not an error: it was asked for.

    A target that existed before holds half a copy; one that `convert` made is removed.
    """


class Target(enum.Enum):
    """What is at the destination before the copy."""

    NEW = "new"
    """Nothing: the file is created, and removed again if the copy fails."""
    EXISTING = "existing"
    """The image that `create` made, or a block device; all of it is written, zeros too."""
    ZEROED = "zeroed"
    """The same, known to read as zeros (just created, never written): zeros of the source are skipped."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether a guest would read the same from two images. The longer one's excess must read as zeros."""

    identical: bool
    first_difference_offset: int | None  # bytes; only for people to read: what counts is qemu-img's exit status


def _never() -> bool:
    return False


def _silent(fraction: float) -> None:
    del fraction


def convert(
    runner: Runner,
    source: str,
    source_format: str,
    dest: str,
    dest_format: str,
    *,
    progress: Progress = _silent,
    should_stop: ShouldStop = _never,
    rate_limit: int | None = None,
    target: Target = Target.NEW,
    thick: bool = False,
    backing: Backing | None = None,
    bitmaps: bool = False,
    force_share: bool = False,
    options: Sequence[str] = (),
    ownership: Ownership = NOBODY_ELSE,
) -> None:
    """Copy an image's content; on disk when this returns. Holes stay holes unless `thick`.

    - `target`: whether `dest` is created here, and must not exist; or is there already (`Target`).
    - `backing`: `dest` gets this backing file and only what the source's top layer holds itself; without it the
      whole chain is copied into one image.
    - `rate_limit`: bytes per second, None or 0 for as fast as it goes.
    - `force_share`: read an image that a QEMU has open; right only if nothing writes to it (a frozen base).
    - `options`: creation options of `dest` (`qemuimg.creation_options`).
    - `ownership`: whose the file at `dest` is (`Ownership`).

    The host's page cache is bypassed where the file systems allow it. A raw file gets the source's size to the byte,
    where QEMU alone would round it up to its block. May be repeated after a crash (Target.EXISTING, not ZEROED).
    Raises Stopped, FileExists, ImageUnreadable (absent), HostCommandFailed (its words say on which side).
    """
    absolute(source, dest)
    before = stat_one(runner, source)
    if before is None:
        raise ImageUnreadable(source, "It does not exist.")
    argv = ["qemu-img", "convert", "-p", "-f", source_format, "-O", dest_format]
    argv += _reading_options(rate_limit, force_share=force_share, bitmaps=bitmaps)
    argv += _target_options(target, dest_format, options, thick=thick, backing=backing)
    if target is Target.NEW:
        claim(runner, dest)
    try:
        ownership.claimed()
        done = _with_best_cache(
            runner, argv, lambda cache: ["-T", cache, "-t", cache], [source, dest], progress, should_stop,
            ownership=ownership,
        )  # fmt: skip
        if dest_format == "raw":
            size = before.size if source_format == "raw" else chain(runner, source, source_format)[0].virtual_size
            _cut(runner, dest, size)
        flush(runner, dest)
        if done.stderr.strip():
            read, made = (source, source_format), (dest, dest_format)
            _look_at_copy(runner, done, read, made, should_stop, force_share=force_share)
    except BaseException:
        if target is Target.NEW:
            ownership.still_ours()
            remove_file(runner, dest)
        raise
    progress(1.0)


def _look_at_copy(
    runner: Runner,
    done: Completed,
    source: Backing,
    dest: Backing,
    should_stop: ShouldStop,
    *,
    force_share: bool = False,
) -> None:
    """Believe a copy of which qemu-img said something only when it is sound and reads as its source.

    QEMU writes the tables of a qcow2 file when it closes it; what fails then is printed, and the exit status is 0
    (bdrv_close in QEMU's block.c has no result). Warnings that mean nothing look the same. Raises HostCommandFailed.
    """
    sound = dest[1] != "qcow2" or check(runner, *dest).sound
    if not sound or not _compare(runner, source, dest, _silent, should_stop, force_share=force_share).identical:
        raise HostCommandFailed("qemu-img convert", done.status, done.stderr.strip())


def _reading_options(rate_limit: int | None, *, force_share: bool, bitmaps: bool) -> list[str]:
    words = ["-U"] if force_share else []
    words += ["-r", str(rate_limit)] if rate_limit else []
    return [*words, *(["--bitmaps"] if bitmaps else [])]


def _target_options(
    target: Target, dest_format: str, options: Sequence[str], *, thick: bool, backing: Backing | None
) -> list[str]:
    words = ["-S", "0"] if thick else []
    words += ["-B", backing[0], "-F", backing[1]] if backing else []
    words += ["-o", ",".join(options)] if options else []
    if target is Target.NEW:
        # QEMU gives a raw file on XFS an extent size of 1 MiB: a scattered thin disk would take many times its size.
        return [*words, *(["-o", "extent_size_hint=0"] if dest_format == "raw" and not thick else [])]
    # QEMU refuses the claim for a target with a backing file, which does not read as zeros.
    return [*words, *(["-n", "--target-is-zero"] if target is Target.ZEROED and not backing else ["-n"])]


def convert_to_export(
    runner: Runner,
    source: str,
    source_format: str,
    uri: str,
    *,
    progress: Progress = _silent,
    should_stop: ShouldStop = _never,
    rate_limit: int | None = None,
) -> None:
    """Write an image's content to an export of a server, zeros too; on its storage when this returns, if the
    server does as it is told. May be repeated. Raises Stopped, HostCommandFailed.

    qemu-img ends with 0 also when the flush at its end fails. An NBD server is asked for one more, which counts; with
    iSCSI and RBD QEMU leaves out a flush on a connection that has written nothing.
    """
    absolute(source)
    target = network_exports.filename(uri)
    argv = ["qemu-img", "convert", "-p", "-n", "-f", source_format, "-O", "raw"]
    argv += ["-r", str(rate_limit)] if rate_limit else []
    done = _with_best_cache(
        runner, argv, lambda cache: ["-T", cache, "-t", "none"], [source, target], progress, should_stop
    )
    if done.stderr.strip():
        _look_at_copy(runner, done, (source, source_format), (target, "raw"), should_stop)
    if exports.parse(uri).protocol == exports.NBD:
        runner.run(["qemu-io", "-f", "raw", "-c", "flush", "--", target])
    progress(1.0)


def compare(
    runner: Runner,
    a: str,
    a_format: str,
    b: str,
    b_format: str,
    *,
    force_share: bool = False,
    progress: Progress = _silent,
    should_stop: ShouldStop = _never,
) -> Comparison:
    """Compare what two images (with their chains) hold, as a guest would read it; from disk, past the page cache.

    Raises Stopped, HostCommandFailed (its words say which image cannot be read).
    """
    absolute(a, b)
    return _compare(runner, (a, a_format), (b, b_format), progress, should_stop, force_share=force_share)


def _compare(
    runner: Runner, a: Backing, b: Backing, progress: Progress, should_stop: ShouldStop, *, force_share: bool
) -> Comparison:
    argv = ["qemu-img", "compare", "-p", "-f", a[1], "-F", b[1]]
    argv += ["-U"] if force_share else []
    names = [a[0], b[0]]
    result = _with_best_cache(runner, argv, lambda cache: ["-T", cache], names, progress, should_stop, good=(0, 1))
    progress(1.0)
    text = result.text
    mismatch = _MISMATCH.search(text)
    return Comparison(result.status == 0, int(mismatch[1]) if mismatch else None)


def percentages(chunk: bytes) -> tuple[float, ...]:
    """The fractions that `qemu-img -p` has printed: `(12.34/100%)` is 0.1234."""
    return tuple(min(1.0, float(number) / 100) for number in _PERCENT.findall(chunk))


def _with_best_cache(
    runner: Runner,
    argv: Sequence[str],
    cache_options: Callable[[str], list[str]],
    paths: Sequence[str],
    progress: Progress,
    should_stop: ShouldStop,
    good: tuple[int, ...] = (0,),
    ownership: Ownership = NOBODY_ELSE,
) -> Completed:
    """Run it with O_DIRECT; where a file system has none, qemu-img ends at once and it runs with the page cache.

    qemu-img has one exit status for every error. So whatever has ended before anything was done is tried with the page
    cache, too: another error comes again, and is told then.
    """
    for cache in _CACHE_LADDER:
        ownership.still_ours()
        result, moved = _follow(runner, [*argv, *cache_options(cache), "--", *paths], progress, should_stop)
        if result.status in good:
            return result
        if moved:
            break  # it could open both, so the cache is not the reason
    raise HostCommandFailed(f"qemu-img {argv[1]}", result.status, result.stderr.strip())


def _follow(runner: Runner, argv: Sequence[str], progress: Progress, should_stop: ShouldStop) -> tuple[Completed, bool]:
    """What became of it, and whether it had done anything."""
    output = bytearray()
    best = 0.0
    with runner.start(argv) as process:
        while (chunk := process.read(_POLL_S)) != b"":
            if should_stop():
                process.terminate()
                raise ConversionStopped
            if chunk is None:
                continue
            output = output[-4096:] + chunk
            for fraction in percentages(bytes(output[-len(chunk) - 20 :])):
                if fraction > best:
                    best = fraction
                    progress(fraction)
        ended = process.wait(check=False)
    return Completed(ended.argv, ended.status, bytes(output), ended.stderr), best > 0.0


def _cut(runner: Runner, path: str, size: int) -> None:
    """QEMU writes whole sectors, with O_DIRECT whole blocks: take off what it appended to a raw file.

    A size of 0 is a block device's, which has no such tail. A target that was made much larger stays so.
    """
    file_stat = stat_one(runner, path)
    if file_stat is not None and file_stat.kind == "file" and 0 < size < file_stat.size < size + _LARGEST_BLOCK:
        runner.run(["truncate", "--no-create", f"--size={size}", "--", path])
