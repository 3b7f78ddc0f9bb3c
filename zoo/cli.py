"""`python -m zoo`: play hosts of a seed, replay a saved one, show the table of recorded runs."""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab import LabError
from zoo import record, spec
from zoo.generate import features, generate
from zoo.play import Played, play
from zoo.shrink import shrink
from zoo.site import Site
from zoo.spec import Host

HERE = Path(__file__).parent
RESULTS, FOUND = HERE / "results", HERE / "found"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 when nothing was found, 1 when something was, 2 when the lab itself failed."""
    options = _parser().parse_args(argv)
    if options.table:
        heads, lines = record.read(options.table)
        for head in heads:
            print(", ".join(f"{name} {value}" for name, value in head.items()))
        print(record.table(lines), end="")
        return 0
    if options.show is not None:
        seed = _seed(options)
        print(spec.to_json(generate(seed, options.show)), end="")
        return 0
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    try:
        with Site.open() as site:
            if options.replay:
                return _replay(site, options.replay, options.shrink)
            return _run(site, options)
    except LabError as why:
        print(f"the lab failed: {why}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the hosts; default: a new one, printed")
    parser.add_argument("--hosts", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--first", type=int, default=0, metavar="INDEX", help="begin with this index")
    parser.add_argument("--index", type=int, help="only this host of the seed")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth host from the Kth on")
    parser.add_argument("--minutes", type=float, help="begin no host after so long")
    parser.add_argument(
        "--out", type=Path, help="the record, JSON lines; hosts that are in it already are not played again"
    )
    parser.add_argument("--shrink", type=float, default=60, metavar="SECONDS", help="for each finding (default: 60)")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="play saved hosts")
    parser.add_argument("--show", type=int, metavar="INDEX", help="print this host of the seed and play nothing")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="the summary of recorded runs")
    return parser


def _seed(options: argparse.Namespace) -> int:
    return options.seed if options.seed is not None else random.randrange(2**31)


def _run(site: Site, options: argparse.Namespace) -> int:
    seed = _seed(options)
    part, _, parts = options.part.partition("/")
    indices = list(range(options.first, options.first + options.hosts))[int(part) - 1 :: int(parts)]
    if options.index is not None:
        indices = [options.index]
    done: set[tuple[int, int]] = set()
    if options.out is not None:
        if options.out.exists():
            done = {(line.seed, line.index) for line in record.read([options.out])[1]}
        record.head(options.out, seed, options.hosts, options.part)
    print(f"seed {seed}", flush=True)
    end = None if options.minutes is None else time.monotonic() + options.minutes * 60
    shrunk: set[str] = set()
    bad = 0
    for index in indices:
        if (seed, index) in done:
            continue
        if end is not None and time.monotonic() > end:
            break
        host = generate(seed, index)
        played = play(site, host)
        show(f"{index}", played)
        name = ""
        if played.findings:
            bad += 1
            signature = " ".join(sorted(played.kinds))
            if options.shrink and signature not in shrunk:
                shrunk.add(signature)
                name = str(_shrink(site, host, played, options.shrink, f"{seed}-{index}"))
        if options.out is not None:
            record.Line(
                seed, index, played.end, round(played.seconds, 2), [str(finding) for finding in played.findings],
                sorted(played.kinds), list(played.codes), sorted(features(host)), played.commands, played.notes, name,
            ).write(options.out)  # fmt: skip
    print(f"{len(indices)} hosts, {bad} with findings; again: python -m zoo --seed {seed} --index INDEX")
    return 1 if bad else 0


def _replay(site: Site, paths: Sequence[Path], seconds: float) -> int:
    bad = 0
    for path in paths:
        host = spec.load(path)
        played = play(site, host)
        show(path.stem, played, verbose=True)
        bad += bool(played.findings)
    return 1 if bad else 0


def _shrink(site: Site, host: Host, played: Played, seconds: float, name: str) -> Path:
    """Save the smallest host that still shows a finding of one of these kinds."""
    wanted = played.kinds

    def fails(smaller: Host) -> bool:
        return bool(play(site, smaller).kinds & wanted)

    small = shrink(host, fails, seconds)
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}.json"
    path.write_text(spec.to_json(small))
    print(f"  shrunk: {path}", flush=True)
    return path


def show(name: str, played: Played, *, verbose: bool = False) -> None:
    """One line of a host, more where something was found."""
    codes = f" ({', '.join(played.codes)})" if played.codes else ""
    verdict = "WRONG" if played.findings else "right"
    print(f"{name:>5} {verdict} {played.end}{codes} [{played.seconds:.1f} s]", flush=True)
    if played.findings or verbose or played.end == "not built":
        for text in (*played.commands, *played.notes):
            print(f"      {_short(text)}")
        for finding in played.findings:
            print(f"    ! {_short(str(finding))}", flush=True)


def _short(text: str) -> str:
    """Very long names as one letter."""
    return re.sub(r"(.)\1{30,}", r"\1...", text)
