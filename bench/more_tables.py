"""Tables of the measures that are made only when they are asked for: pace, buffer, verify, resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench import movers, moving, resuming, stats
from bench.found import Results
from bench.moving import FLAT, IDLE, WRITING
from bench.record import Broken, GuestFigures, Trial
from bench.rendering import Table, spread_text
from bench.stats import Spread
from lab.sizes import GIB, MIB

PROMISE = 0.06
"""Of the disk may be copied again after a break at 95 % (docs/design/resume.md)."""


def before_during(both: Sequence[tuple[GuestFigures, GuestFigures]]) -> list[str]:
    """Writes/s, MiB/s, p50, p99 before and during; then the ratios of throughput and p99."""
    cells = []
    parts: list[tuple[Callable[[GuestFigures], float], int]] = [
        (lambda guest_figures: guest_figures.writes_per_s, 0),
        (lambda guest_figures: guest_figures.bytes_per_s / 2**20, 1),
        (lambda guest_figures: guest_figures.p50_ms, 2),
        (lambda guest_figures: guest_figures.p99_ms, 1),
    ]
    for of, digits in parts:
        cells.append(_arrows(([of(pair[side]) for pair in both] for side in (0, 1)), digits))
    for of in (parts[0][0], parts[3][0]):
        cells.append(spread_text(Spread.of(of(during) / of(before) for before, during in both if of(before)), 2))
    return cells


def _arrows(windows: Iterable[Iterable[float]], digits: int) -> str:
    """Medians of windows that follow each other."""
    spreads = [Spread.of(values) for values in windows]
    return " → ".join(f"{spread.median:.{digits}f}" for spread in spreads if spread) or "-"


def _windows(found: Sequence[Trial]) -> list[tuple[GuestFigures, GuestFigures]]:
    return [(trial.before, trial.during) for trial in found if trial.before and trial.during]


def pace(results: Results) -> Table:
    rows = []
    for load in (WRITING, FLAT):
        for image_format in results.run.settings.formats:
            virsh = results.of("pace", movers.VIRSH, image_format=image_format, load=load)
            for method in movers.OF_PACE:
                found = results.of("pace", method, image_format=image_format, load=load)
                both = _windows(found)
                if both:
                    writes, _, p50, p99, _, p99_ratio = before_during(both)
                    own = [trial.own_p99_ms for trial in found if trial.own_p99_ms]
                    rows.append(
                        (
                            load,
                            image_format,
                            method,
                            str(len(found)),
                            spread_text(Spread.of(trial.seconds for trial in found), 1),
                            spread_text(stats.ratios(found, virsh, lambda trial: trial.seconds), 2),
                            writes,
                            p50,
                            p99,
                            p99_ratio,
                            spread_text(Spread.of(during.longest_gap_s * 1000 for _, during in both), 0),
                            _arrows(([pair[side] for pair in own] for side in (0, 1)), 1),
                            spread_text(
                                Spread.of(trial.within * 100 for trial in found if trial.within is not None), 1
                            ),
                        )
                    )
    note = (
        f"One disk of {results.run.settings.size / GIB:g} GiB. Before → while the copy ran: medians of the rounds; "
        "ratios within a round. By the judge in the guest, but for the last two columns: blockferry's own report, "
        "which estimates the p99 from QEMU's counters (without the guest's own share)."
    )
    columns = ("guest", "format", "command", "n", "s", "/ virsh", "writes/s", "p50 ms", "p99 ms", "p99 ratio",
               "longest silence ms", "own p99 ms", "within, %")  # fmt: skip
    return Table("D. With a latency contract", columns, rows, note)


def buffer(results: Results) -> Table:
    size = results.run.settings.size
    default = moving.BUFFERS[0]
    rows = []
    for image_format in results.run.settings.formats:
        for load in (IDLE, WRITING, FLAT):
            virsh = results.of("buffer", movers.VIRSH, image_format=image_format, load=load)
            cases = [(method, one) for method in (movers.MIRROR, movers.CHANGED) for one in moving.BUFFERS]
            for method, of in [*cases, (movers.VIRSH, 0)]:
                found = results.of("buffer", method, image_format=image_format, load=load, buffer=of)
                if not found:
                    continue
                usual = results.of("buffer", method, image_format=image_format, load=load, buffer=of and default)
                both = _windows(found)
                writes, _, p50, p99, part, _ = before_during(both) if both else ["-"] * 6
                rows.append(
                    (
                        image_format,
                        load,
                        method,
                        f"{of / MIB:g} MiB" if of else "its own",
                        str(len(found)),
                        spread_text(Spread.of(size / MIB / trial.copy_s for trial in found if trial.copy_s), 0),
                        spread_text(stats.ratios(usual, found, lambda trial: trial.copy_s), 2),
                        spread_text(stats.ratios(found, virsh, lambda trial: trial.seconds), 2),
                        writes,
                        part,
                        p50,
                        p99,
                        spread_text(Spread.of(during.longest_gap_s * 1000 for _, during in both), 0),
                    )
                )
    note = (
        f"One disk of {size / GIB:g} GiB. Copy's rate: the disk by the time from QEMU's job's start until it is in "
        f"step; beside it as a ratio to the same with {default // MIB} MiB, the default (QEMU's own: 16). Time: the "
        "whole command by virsh's. The guest, by its judge: before → while the copy ran, medians; ratios within a "
        "round, median (least - most)."
    )
    columns = ("format", "guest", "command", "buffer", "n", "copy MiB/s", "rate ratio", "time / virsh", "writes/s",
               "writes ratio", "p50 ms", "p99 ms", "longest silence ms")  # fmt: skip
    return Table("E. QEMU's copy buffer", columns, rows, note)


def verify(results: Results) -> Table:
    rows = []
    for size in moving.sizes_verified(results.run.settings):
        for image_format in results.run.settings.formats:
            for disks in moving.DISKS_VERIFIED:
                for load in (IDLE, WRITING):
                    found = results.of(
                        "verify", movers.MIRROR, image_format=image_format, load=load, disks=disks, size=size
                    )
                    if found:
                        rows.append((f"{disks} x {size / GIB:g} GiB", image_format, load, *_verified(found)))
    note = (
        "blockferry mirror --verify. Copy: QEMU's jobs, from the first one's start until all are in step. "
        "Verification: the command's phase of that name (comparing, and ending the frozen view). Rates are of the "
        "disks' size; several disks are copied together and compared one after another. Its speed: the verification's "
        "rate by the copy's in the same move, median (least - most). Read: by both devices in the whole command, as a "
        "multiple of the disks: 1 for the copy and 2 for the comparison. The guest, by its judge: before → during the "
        "copy → during the verification, medians."
    )
    columns = ("disks", "format", "guest", "n", "copy s", "MiB/s", "verification s", "MiB/s", "its speed", "read x",
               "writes/s", "p99 ms", "longest silence ms")  # fmt: skip
    return Table("F. What a verification costs", columns, rows, note)


def _verified(found: Sequence[Trial]) -> tuple[str, ...]:
    whole = found[0].size * found[0].disks
    windows = [(trial.before, trial.during, trial.during_verify) for trial in found]
    full = [three for three in windows if all(three)]

    def three(of: Callable[[GuestFigures], float], digits: int) -> str:
        return _arrows(
            ([of(guest_figures) for three in full if (guest_figures := three[side])] for side in range(3)), digits
        )

    return (
        str(len(found)),
        spread_text(Spread.of(trial.copy_s for trial in found), 1),
        spread_text(Spread.of(whole / MIB / trial.copy_s for trial in found if trial.copy_s), 0),
        spread_text(Spread.of(trial.verify_s for trial in found), 1),
        spread_text(Spread.of(whole / MIB / trial.verify_s for trial in found if trial.verify_s), 0),
        spread_text(Spread.of(trial.copy_s / trial.verify_s for trial in found if trial.copy_s and trial.verify_s), 2),
        spread_text(Spread.of(trial.read_bytes / whole for trial in found if trial.read_bytes is not None), 2),
        three(lambda guest_figures: guest_figures.writes_per_s, 0),
        three(lambda guest_figures: guest_figures.p99_ms, 1),
        three(lambda guest_figures: guest_figures.longest_gap_s * 1000, 0),
    )


def _broken(results: Results, image_format: str, cause: str | None, share: float) -> list[tuple[Trial, Broken]]:
    return [
        (trial, trial.broken)
        for trial in results.good
        if trial.broken is not None
        and trial.format == image_format
        and cause in (None, trial.broken.cause)
        and trial.broken.share == share
    ]


def _again(results: Results, found: Sequence[tuple[Trial, Broken]], of: Callable[[Broken], int]) -> Spread | None:
    """What was written although it had been copied, as a share of the disk."""
    size = results.run.settings.size
    return Spread.of(max(0, of(broken) - broken.missing) / size for _, broken in found)


def _own(broken: Broken) -> int:
    return broken.rewritten


def _device(broken: Broken) -> int:
    return broken.device_written


def promise(results: Results) -> Table:
    rows = []
    for image_format in results.run.settings.formats:
        found = _broken(results, image_format, None, 0.95)
        for by, of in (("blockferry's report", _own), ("the device's counter", _device)):
            again = _again(results, found, of)
            if again is not None:
                verdict = "yes" if again.high <= PROMISE else "NO"
                rows.append((image_format, by, str(again.n), _percent(again), _worst(again), verdict))
    note = (
        f"The promise: after a break at 95 % at most {PROMISE:.0%} of the disk is copied again. All causes together. "
        "The device counts more than the copy: file system metadata, overlays, and what the guest wrote meanwhile."
    )
    columns = ("format", "by", "n", "copied again, median", "worst", "kept")
    return Table("G. Resume: the promise", columns, rows, note)


def resume(results: Results) -> Table:
    rows = []
    for image_format in results.run.settings.formats:
        for cause in resuming.CAUSES:
            for share in resuming.SHARES:
                found = _broken(results, image_format, cause, share)
                if not found:
                    continue
                own, device = _again(results, found, _own), _again(results, found, _device)
                rows.append(
                    (
                        image_format,
                        cause,
                        _percent(Spread.of(one.copied / one.whole for _, one in found if one.whole)),
                        " / ".join(sorted({one.way for _, one in found})),
                        str(len(found)),
                        _mib(one.missing for _, one in found),
                        _mib(one.rewritten for _, one in found),
                        _mib(one.device_written for _, one in found),
                        f"{_percent(own)} ({_worst(own)})",
                        f"{_percent(device)} ({_worst(device)})",
                        _mib(one.guest_wrote for _, one in found),
                        _mib(one.compared for _, one in found),
                        spread_text(Spread.of(trial.seconds for trial, _ in found), 1),
                    )
                )
    settings = results.run.settings
    rate = settings.size / resuming.COPY_S / MIB
    note = (
        f"changed-blocks --on-break keep, one disk of {settings.size / GIB:g} GiB, the copy held to {rate:.0f} MiB/s; "
        f"the guest writes {resuming.RATE} x {resuming.WRITE_KIB} KiB a second into "
        f"{resuming.SPAN_BLOCKS * 4 // 1024} MiB of it. MiB, medians. Missing: what had not been copied when it broke, "
        "at the least (less what may have been copied after the last look at the job). Written: from the break "
        "until the VM was at the destination. Again = written - missing, as a share of the disk, median "
        "(worst): once by blockferry's report, once by the write counter of the destination's device, in which are "
        "also the file system's metadata, overlays and the guest's own writes. Compared: read on both sides. "
        "s: of what went on. Every trial was judged: all acknowledged writes are there."
    )
    columns = ("format", "the copy broke by", "at", "gone on with by", "n", "missing", "written", "by the device",
               "again", "again, device", "guest wrote", "compared", "s")  # fmt: skip
    return Table("G. Resume: what is copied again after a break", columns, rows, note)


def said(results: Results) -> Table:
    rows = []
    for image_format in results.run.settings.formats:
        for cause in resuming.CAUSES:
            found = [pair for share in resuming.SHARES for pair in _broken(results, image_format, cause, share)]
            if found:
                before = sorted({code for _, one in found for code in one.said_before})
                after = sorted({code for _, one in found for code in one.said_after})
                status = sorted({"-" if one.ended is None else str(one.ended) for _, one in found})
                rows.append((image_format, cause, _words(before), "/".join(status), _words(after)))
    note = (
        "Codes of `blockferry check` on going on (docs/errors.md): before the move, and before the next one, where one "
        "was needed. RESUME_NOT: a break would cost all. RESUME_FROM: what is there is gone on with. Status: of the "
        "command whose copy broke."
    )
    columns = ("format", "the copy broke by", "check, before the move", "status", "check, after the break")
    return Table("G. Resume: what is said of it", columns, rows, note)


def _words(codes: Sequence[str]) -> str:
    return ", ".join(codes) or "-"


def _percent(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median * 100:.1f} %"


def _worst(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.high * 100:.1f} %"


def _mib(values: Iterable[int]) -> str:
    spread = Spread.of(values)
    return "-" if spread is None else f"{spread.median / MIB:.1f}"
