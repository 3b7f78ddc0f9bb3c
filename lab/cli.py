"""The lab by hand: `python -m lab up`, and what follows."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import click

from lab import roots as lab_roots
from lab import sweep
from lab.errors import LabError
from lab.guests import Disk, Guest
from lab.hosts import Host
from lab.lab import Lab
from lab.qemuuser import PROFILES, Profile
from lab.roots import ROOTS, RootName
from lab.state import ROOT


class _Commands(click.Group):
    """Turns LabError into a sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except LabError as why:
            raise click.ClickException(str(why)) from why


@click.group(cls=_Commands)
@click.option("--lab", "name", default="default", show_default=True, help="Name of the lab.")
@click.pass_context
def main(ctx: click.Context, name: str) -> None:
    """Real libvirt hosts, guests and storage on this machine."""
    ctx.obj = name


def _lab(ctx: click.Context) -> Lab:
    return Lab.open(ctx.obj)


def _host(lab: Lab, name: str) -> Host:
    if name not in lab.hosts:
        raise LabError(f"there is no host {name}; there are: {', '.join(lab.hosts)}")
    return lab.hosts[name]


def _guest(lab: Lab, name: str) -> Guest:
    if name not in lab.guests:
        raise LabError(f"there is no guest {name}; there are: {', '.join(lab.guests)}")
    return lab.guests[name]


@main.command()
@click.option("--hosts", default=1, show_default=True, help="How many hosts: kvm1, kvm2, ...")
@click.option("--guests", default=1, show_default=True, help="How many guests on kvm1: web01, web02, ...")
@click.option("--rate", default=200, show_default=True, help="Writes a second and disk.")
@click.option("--debug", is_flag=True, help="libvirtd logs everything.")
@click.option(
    "--profile", type=click.Choice(PROFILES), default="default", show_default=True,
    help="As whom QEMU runs: lab/qemuuser.py.",
)  # fmt: skip
@click.option("--root", type=click.Choice(ROOTS), help="Another distribution for all hosts but kvm1: lab/roots.py.")
@click.pass_context
def up(
    ctx: click.Context, hosts: int, guests: int, rate: int, *, debug: bool, profile: Profile, root: RootName | None
) -> None:
    """Start a lab that stays until `down`: datastores old-san (ext4) and ssd (xfs), guests that write."""
    lab = Lab.create(ctx.obj, keep=True)
    try:
        stores = [lab.datastore("old-san", fs="ext4", size="16GiB"), lab.datastore("ssd", fs="xfs", size="16GiB")]
        for number in range(1, hosts + 1):
            other = root if number > 1 else None
            host = lab.host(f"kvm{number}", debug=debug, profile=profile, root=other, network=hosts > 1)
            for store in stores:
                host.attach(store)
        for number in range(1, guests + 1):
            disks = [
                Disk("vda", stores[0], size="1GiB", fs="64MiB", fill="256MiB"),
                Disk("vdb", stores[0], size="512MiB", fill="64MiB"),
            ]
            guest = lab.guest(lab.hosts["kvm1"], f"web{number:02}", disks, start=True)
            guest.judge.start(rate=rate)
            guest.database.start()
    except BaseException:
        lab.down()
        raise
    _describe(lab)


def _describe(lab: Lab) -> None:
    option = "" if lab.name == "default" else f" --lab {lab.name}"
    click.echo(f"lab {lab.name} in {lab.directory}")
    for store in lab.datastores.values():
        click.echo(f"  datastore {store.name}: {store.spec.fs}, {store.path}")
    for host in lab.hosts.values():
        over = f", from the other hosts {host.ssh_uri}" if host.network else ""
        click.echo(f"  host {host.name}: {'up' if host.up() else 'down'}, {host.uri}{over}")
    for guest in lab.guests.values():
        click.echo(f"  guest {guest.name} on {guest.host.name}: {guest.state() if guest.host.up() else 'host down'}")
    click.echo("To talk to it:")
    for words in (
        "shell kvm1                    # a shell on the host; there qemu:///system is this host",
        "run kvm1 -- virsh list --all",
        "guest web01 'cat /proc/uptime'",
        "judge web01                   # what it wrote, the longest stall, a check of every block",
        "down",
    ):
        click.echo(f"  python -m lab{option} {words}")


@main.command()
@click.pass_context
def down(ctx: click.Context) -> None:
    """Remove the lab, whole or broken."""
    directory = ROOT / ctx.obj
    if not directory.is_dir():
        raise LabError(f"there is no lab in {directory}")
    sweep.remove(directory)


@main.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Every lab on this machine, then this one in full."""
    for directory in sweep.labs():
        state = "orphaned: `gc` removes it" if sweep.orphaned(directory) else "in use or kept"
        click.echo(f"{directory.name}: {state}")
    if (ROOT / ctx.obj).is_dir():
        _describe(_lab(ctx))


@main.command()
def gc() -> None:
    """Remove what crashed runs left behind. Safe at any time: labs in use and labs started by hand stay."""
    for directory in sweep.gc():
        click.echo(f"removed {directory}")


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(ROOTS))
def roots(names: tuple[RootName, ...]) -> None:
    """Make the root file systems of other distributions that are not there yet, and say what is in them."""
    for name in names or ROOTS:
        began = time.monotonic()
        tree = lab_roots.root(name)
        versions = ", ".join(f"{package} {version}" for package, version in lab_roots.versions(tree).items())
        click.echo(f"{name}: {versions}; {tree} ({time.monotonic() - began:.0f} s)")


@main.command()
@click.argument("host")
@click.pass_context
def shell(ctx: click.Context, host: str) -> None:
    """A shell on a host."""
    command = _host(_lab(ctx), host).namespaces.command([os.environ.get("SHELL", "/bin/bash")], Path.cwd())
    os.execvpe(command[0], command, {**os.environ, "PS1": f"root@{host} \\w # "})


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, required=True)
@click.pass_context
def run(ctx: click.Context, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host; its exit status is passed on."""
    words = _host(_lab(ctx), host).namespaces.command(command, Path.cwd())
    os.execvp(words[0], words)


@main.command("guest")
@click.argument("guest")
@click.argument("script", nargs=-1, required=True)
@click.option("--timeout", default=60, show_default=True, help="Seconds.")
@click.pass_context
def guest_command(ctx: click.Context, guest: str, script: tuple[str, ...], timeout: int) -> None:
    """Run a shell script in a guest. A single word of start, poweroff, reboot or console does that instead."""
    found = _guest(_lab(ctx), guest)
    if script == ("start",):
        found.start()
    elif script == ("poweroff",):
        found.poweroff()
    elif script == ("reboot",):
        found.reboot()
    elif script == ("console",):
        click.echo(found.console())
    else:
        text = script[0] if len(script) == 1 else shlex.join(script)
        code, output = found.channel.ask(f"sh {timeout}\n{text}", timeout=timeout + 5)
        click.echo(output, nl=not output.endswith("\n"))
        sys.exit(code)


@main.command()
@click.argument("guest")
@click.option("--start", "rate", type=int, help="Write at this rate a second and disk (0: flat out), then look.")
@click.option("--stop", is_flag=True, help="End writing.")
@click.option("--seconds", default=5.0, show_default=True, help="Measure stalls and throughput for so long.")
@click.option("--image", help="Check this image instead: TARGET:FORMAT:PATH (of a VM that is off, or a frozen copy).")
@click.pass_context
def judge(ctx: click.Context, guest: str, rate: int | None, *, stop: bool, seconds: float, image: str | None) -> None:
    """What the judge says: rates, latencies, the longest stall, and whether every written block is there."""
    found = _guest(_lab(ctx), guest)
    if image is not None:
        target, image_format, path = image.split(":", 2)
        verdict = found.judge.check_image(target, path, image_format)
        click.echo(str(verdict))
        sys.exit(0 if verdict.ok else 1)
    if rate is not None:
        found.judge.start(rate=rate)
    if stop:
        found.judge.stop()
    since = found.judge.now()
    time.sleep(seconds)
    latencies, gap = found.judge.latencies(since), found.judge.longest_gap(since)
    click.echo(
        f"{latencies.count / seconds:.0f} writes/s, latency p50 {latencies.p50_ms:.1f} ms, "
        f"p99 {latencies.p99_ms:.1f} ms, max {latencies.max_ms:.1f} ms; longest stall {gap * 1000:.0f} ms"
    )
    live = found.judge.verify_live()
    click.echo(f"in the guest: {live.text}")
    if found.judge.ledger().committed:
        click.echo(f"database: {found.database.check()}")
    sys.exit(0 if live.ok else 1)
