"""How long a guest stands still at the start of its copies on a QEMU that has the start race (defect 3273).

    python -m bench.start_race --size 1024GiB

The installed QEMU needs no suspended starts; the configuration `suspended_start = true` makes blockferry treat it as
one that does. A thin qcow2 disk with discard='unmap', written to all the time; the judge has the last word on every
block.
"""

from __future__ import annotations

import json
import os
import time

import click

from bench.options import Size
from bench.place import BLOCKFERRY
from lab import Disk, Lab
from lab.process import run
from lab.sizes import GIB

_LIMIT_S = 900
_JUDGED = 4 * GIB
"""So much of the disk the guest writes to at random: the judge keeps every block of it in mind."""


@click.command()
@click.option("--size", type=Size(), default="1024GiB", show_default=True, help="Of the thin disk.")
@click.option("--writers", default=2, show_default=True)
@click.option("--rate", default=100, show_default=True, help="Writes a second and writer.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--method", default="auto", show_default=True)
@click.option("--verbose", is_flag=True)
def main(size: int, writers: int, rate: int, rounds: int, method: str, *, verbose: bool) -> None:
    """Print one JSON line for each round: suspensions, the guest's longest silence, the judge's verdict."""
    with Lab.create(f"race-{os.getpid()}") as lab:
        stores = [lab.datastore(name, fs="xfs", size=24 * GIB) for name in ("old-san", "ssd")]
        host = lab.host("kvm1")
        for store in stores:
            host.attach(store)
        config = lab.directory / "tmp/affected.toml"
        config.write_text("suspended_start = true\n")
        journal = lab.directory / "tmp/journal.db"
        environment = {"BLOCKFERRY_JOURNAL": f"sqlite:///{journal}", "BLOCKFERRY_CONFIG": str(config)}
        for number in range(1, rounds + 1):
            disk = Disk("vda", stores[0], size=_JUDGED, fill=GIB)
            guest = lab.guest(host, f"vm{number}", [disk], cache="none")
            run(["qemu-img", "resize", "-q", guest.disk("vda").path, str(size)])
            guest.start()
            guest.judge.start(writers=writers, rate=rate, most_kib=4, random_percent=100)
            guest.judge.wait_writes(500)
            begin = guest.judge.now()
            started = time.monotonic()
            words = [BLOCKFERRY, "move", guest.name, "--to", "ssd", "--method", method]
            said = host.run(words, env={**os.environ, **environment}, check=False, timeout=_LIMIT_S)
            seconds = time.monotonic() - started
            guest.judge.settle()
            gap = guest.judge.longest_gap(begin, guest.judge.now())
            guest.judge.stop()
            verdict = guest.judge.verify_live()
            print(json.dumps({"round": number, "status": said.returncode, "seconds": seconds, "gap_s": gap,
                              "ok": verdict.ok, "verdict": verdict.text}), flush=True)  # fmt: skip
            if said.returncode or verbose:
                print(said.stdout, said.stderr, flush=True)
            lab.remove_guest(guest)


if __name__ == "__main__":
    main()
