"""A VM goes from one lab host to another, under the judge: running and off, nothing shared and all shared, killed."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Disk, Guest, Host
from lab.certificates import QEMU_DIRECTORY, Authority
from lab.namespaces import HostProcess
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Said

LIMIT_S = 240
TAKEN = "<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type machine='pc'>hvm</type></os></domain>"

pytestmark = pytest.mark.lab


class Crossing:
    """One guest on its way from `far` to `kvm2`, moved by the command line on the desk, which knows both by name."""

    def __init__(self, guest: Guest, line: CrossingLine) -> None:
        self.guest, self.line = guest, line
        self.source, self.dest = line.host, line.dest

    @property
    def name(self) -> str:
        return self.guest.name

    def write(self) -> None:
        self.guest.judge.start(rate=50, most_kib=16)
        self.guest.judge.wait_writes(30)

    def move(self, *words: str, point: str = "") -> Said:
        return self.line.do("move", self.name, "--to-host", "kvm2", *words, point=point)

    def states(self) -> tuple[str, str]:
        return self.source.vm_state(self.name), self.dest.vm_state(self.name)

    def assert_moved(self, said: Said, state: str = "running") -> dict[str, Any]:
        """It is at the destination only, as it was; the report."""
        assert said.status == 0, f"{said}\n{self.line.stories()}"
        assert said.move["state"] == "moved", said
        assert said.move["kind"] == "host-move", said
        assert self.states() == ("absent", state), self.line.stories()
        self.guest.host = self.dest
        assert "urn:blockferry" not in self.dest.virsh("dumpxml", self.name, "--inactive")
        assert not self.line.unfinished()
        report = said.move["report"]
        assert isinstance(report, dict)
        return report

    def assert_alive(self) -> None:
        """It has written since, and all that it was told is written is there."""
        self.guest.judge.wait_writes(20)
        assert self.guest.judge.verify_live().ok

    def assert_back(self, *homes: Path) -> None:
        """It is at the source as before, and nothing of it is at the destination."""
        assert self.states()[1] == "absent", self.line.stories()
        assert "urn:blockferry" not in self.source.virsh("dumpxml", self.name)
        for home in homes:
            assert not home.exists() or not list(home.iterdir()), self.line.stories()


class CrossingLine(Line):
    """The command line on the desk, whose configuration names both hosts."""

    def __init__(self, station: Host, far: Host, kvm2: Host, directory: Path) -> None:
        super().__init__(far, directory, ())
        self._station, self.dest = station, kvm2
        hosts = {"kvm1": far, "kvm2": kvm2}
        tables = "".join(f'[hosts.{name}]\nuri = "{host.ssh_uri}"\n' for name, host in hosts.items())
        (directory / "hosts.toml").write_text(tables)

    @property
    def station(self) -> Host:
        return self._station

    def from_host(self, station: Host) -> CrossingLine:
        """The same journal and configuration, on another machine."""
        return CrossingLine(station, self.host, self.dest, self.directory)

    def environment(self, point: str = "", suspended_start: bool | None = None) -> dict[str, str]:
        found = super().environment(point, suspended_start)
        return {**found, "BLOCKFERRY_CONFIG": str(self.directory / "hosts.toml")}


@pytest.fixture
def line(desk: Host, far: Host, kvm2: Host, tmp_path: Path) -> CrossingLine:
    return CrossingLine(desk, far, kvm2, tmp_path)


@pytest.fixture
def crossing(make_guest: MakeGuest, line: CrossingLine) -> Iterator[Callable[..., Crossing]]:
    made: list[Crossing] = []

    def make(*disks: Disk, start: bool = True, **options: Any) -> Crossing:
        made.append(Crossing(make_guest(disks, host=line.host, start=start, **options), line))
        return made[-1]

    yield make
    for crossing in made:
        for host in (line.host, line.dest):
            host.run(["virsh", "-q", "destroy", crossing.name], check=False)
            host.run(["virsh", "-q", "undefine", crossing.name], check=False)


def test_running_with_nothing_shared(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    """Checked, then moved with two disks of two formats to a datastore that only the other host has."""
    disks = Disk("vda", ssd, size="96MiB", fill="32MiB"), Disk("vdb", ssd, size="48MiB", format="raw")
    one = crossing(*disks)
    one.write()
    checked = one.line.do("check", one.name, "--to-host", "kvm2", "--to", "kvm2-disks")
    assert (checked.status, checked.document["refused"]) == (0, False), checked
    assert checked.document["check"]["findings"] == [], checked
    report = one.assert_moved(one.move("--to", "kvm2-disks"))
    assert 0 < report["switch_stall_s"] < 30, report
    assert report["bulk_bytes"] > 32 << 20, report
    assert report["memory_bytes"] > 0, report
    assert len(report["verified"]) == 1, report
    one.assert_alive()
    for disk in one.guest.spec.disks:
        assert not Path(disk.path).exists(), report["sources"]
        assert Path(one.guest.sources()[disk.target]).parent.parent == kvm2_disks.path
    shown = one.line.must("show", one.name).document["move"]
    assert shown["plan"]["dest_host_name"] == "kvm2", shown
    assert [moved["kind"] for moved in one.line.history()] == ["host-move"]


def test_all_shared(crossing: Callable[..., Crossing], old_san: Datastore, kvm2: Host) -> None:
    """To a host that is named by its URI."""
    one = crossing(Disk("vda", old_san, size="48MiB"))
    one.write()
    said = one.line.do("move", one.name, "--to-host", kvm2.ssh_uri)
    assert said.move["plan"]["staying"] == ["vda"], said
    one.assert_moved(said)
    one.assert_alive()
    assert Path(one.guest.spec.disk("vda").path).exists()
    assert not list(old_san.path.rglob(".blockferry-probe-*"))


def test_off(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    """Killed in the middle of its copy, and while its definition is at both hosts, where it cannot be started."""
    one = crossing(Disk("vda", ssd, size="96MiB", fill="32MiB"))
    one.write()
    one.guest.poweroff()
    assert one.move("--to", "kvm2-disks", point="cold-copying:kill").killed
    assert one.line.do("resume", one.name, point="defined:kill").killed
    assert one.states() == ("shut off", "shut off")
    started = one.dest.run(["virsh", "-q", "start", one.name], check=False)
    assert started.returncode != 0
    assert one.line.do("resume", one.name, point="source-undefined:kill").killed
    one.assert_moved(one.line.do("resume", one.name), "shut off")
    assert not Path(one.guest.spec.disk("vda").path).exists()
    [path] = one.guest.sources(inactive=True).values()
    assert Path(path).parent == kvm2_disks.home(one.name)
    verdict = one.guest.judge.check_image("vda", Path(path), "qcow2")
    assert verdict.ok, verdict
    assert [file.name for file in Path(path).parent.iterdir()] == [Path(path).name]


@pytest.mark.parametrize("point", ["migration-called", "handed-noted", "resumed"])
def test_killed(crossing: Callable[..., Crossing], ssd: Datastore, point: str) -> None:
    one = crossing(Disk("vda", ssd, size="48MiB"))
    one.write()
    assert one.move("--to", "kvm2-disks", point=f"{point}:kill").killed
    assert one.states().count("running") <= 1
    # A second process only watches: nobody runs the move, so that starts a third one in the background.
    report = one.assert_moved(one.line.do("watch" if point == "handed-noted" else "resume", one.name))
    assert report["memory_bytes"] > 0, "the process that saw it has died, but the destination's libvirt knows"
    assert len(report["sources"]) == 1, report
    one.assert_alive()


EARLY = ["marked", "image-named", "image-made", "migrating"]
LATE = ["alone-noted", "resuming", "arrived-noted", "settled", "releasing-image", "image-released", "finishing"]


@pytest.mark.sampled(0.2)
@pytest.mark.parametrize("point", [*EARLY, *LATE])
def test_killed_at_every_other_point(crossing: Callable[..., Crossing], ssd: Datastore, point: str) -> None:
    one = crossing(Disk("vda", ssd, size="32MiB"))
    one.write()
    killed = one.move("--to", "kvm2-disks", point=f"{point}:kill")
    assert killed.killed, f"no move passed {point}: {killed}"
    assert one.states().count("running") <= 1
    one.assert_moved(one.line.do("resume", one.name))
    one.assert_alive()
    assert not Path(one.guest.spec.disk("vda").path).exists()


def test_another_manager_takes_it_up(crossing: Callable[..., Crossing], ssd: Datastore, kvm2: Host) -> None:
    """The machine that ran the move is gone. Another one has the journal and the list of hosts, and that is enough."""
    one = crossing(Disk("vda", ssd, size="48MiB"))
    one.write()
    assert one.move("--to", "kvm2-disks", point="handed-noted:kill").killed
    elsewhere = one.line.from_host(kvm2)
    [left] = elsewhere.must("moves").document["moves"]
    assert left["kind"] == "host-move", left
    # Whether the process on the other machine lives cannot be seen from here; its lease expires.
    one.assert_moved(elsewhere.do("watch", one.name))
    one.assert_alive()


def _slow(crossing: Callable[..., Crossing], ssd: Datastore) -> Crossing:
    one = crossing(Disk("vda", ssd, size="512MiB", fill="256MiB"))
    one.write()
    return one


def _wait_begun(crossing: Crossing) -> None:
    wait_until(
        lambda: crossing.states()[1] == "paused",
        "the beginning",
        timeout=LIMIT_S,
        step=0.1,
        report=crossing.line.stories,
    )


def test_cancelled_on_its_way(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    """By a second process; a third one has seen it under way, and a storage move of the VM is refused meanwhile."""
    one = _slow(crossing, ssd)
    process = one.line.start("move", one.name, "--to-host", "kvm2", "--to", "kvm2-disks", "--bandwidth", "8MiB/s")
    _wait_begun(one)
    assert one.line.must("--host", "kvm2", "orphans").document["orphans"] == []
    [listed] = one.line.must("moves").document["moves"]
    assert (listed["kind"], listed["state"]) == ("host-move", "running"), listed
    refused = one.line.do("--host", "kvm1", "move", one.name, "--to", "old-san")
    assert (refused.code, refused.codes) == ("REFUSED", ["MOVE_UNDER_WAY"]), refused
    assert one.line.must("cancel", one.name).move["state"] == "cancelled"
    assert one.line.end(process).code == "MOVE_CANCELLED", one.line.stories()
    one.assert_back(kvm2_disks.home(one.name))
    one.assert_alive()


def _mirror_speeds(one: Crossing) -> list[int]:
    """Of the disk copies of the migration, as QEMU at the source tells them."""
    answer = one.source.virsh("qemu-monitor-command", one.name, '{"execute": "query-block-jobs"}')
    return [job["speed"] for job in json.loads(answer)["return"] if job["type"] == "mirror"]


def test_its_speed_is_changed_while_it_runs(crossing: Callable[..., Crossing], ssd: Datastore) -> None:
    """Two disks share the limit, and both go without one when it is taken away."""
    one = crossing(Disk("vda", ssd, size="256MiB", fill="128MiB"), Disk("vdb", ssd, size="256MiB", fill="128MiB"))
    one.write()
    process = one.line.start("move", one.name, "--to-host", "kvm2", "--to", "kvm2-disks", "--bandwidth", "8MiB/s")
    _wait_begun(one)
    wait_until(
        lambda: _mirror_speeds(one) == [4 << 20, 4 << 20], "the shares", timeout=60, step=0.2, report=one.line.stories
    )
    one.line.must("speed", one.name, "0")
    wait_until(lambda: set(_mirror_speeds(one)) <= {0}, "no limit", timeout=60, step=0.2, report=one.line.stories)
    one.assert_moved(one.line.end(process))
    one.assert_alive()


def _capabilities(one: Crossing) -> set[str]:
    """The migration capabilities that are on in the source's QEMU; none once it has ended."""
    ask = ["virsh", "-q", "qemu-monitor-command", one.name, '{"execute": "query-migrate-capabilities"}']
    said = one.line.host.run(ask, check=False)
    if said.returncode != 0:
        return set()
    return {found["capability"] for found in json.loads(said.stdout)["return"] if found["state"]}


@pytest.mark.parametrize(
    ("options", "capability"), [(["--channels", "4"], "multifd"), (["--compress", "xbzrle"], "xbzrle")]
)
def test_memory_by_several_channels_or_compressed(
    crossing: Callable[..., Crossing], old_san: Datastore, options: list[str], capability: str
) -> None:
    one = crossing(Disk("vda", old_san, size="48MiB"))
    one.write()
    process = one.line.start("move", one.name, "--to-host", "kvm2", "--bandwidth", "1MiB/s", *options)
    wait_until(lambda: capability in _capabilities(one), capability, timeout=60, step=0.2, report=one.line.stories)
    one.line.must("speed", one.name, "0")
    one.assert_moved(one.line.end(process))
    one.assert_alive()


def test_the_destinations_libvirtd_is_killed(
    crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore
) -> None:
    """In the middle of the copy: the guest runs on at the source, and nothing is left at the destination."""
    one = _slow(crossing, ssd)
    process = one.line.start("move", one.name, "--to-host", "kvm2", "--to", "kvm2-disks", "--bandwidth", "8MiB/s")
    _wait_begun(one)
    one.dest.restart_libvirtd()
    assert one.line.end(process).code == "MOVE_FAILED", one.line.stories()
    one.assert_back(kvm2_disks.home(one.name))
    one.assert_alive()


def test_paused(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore, kvm2: Host) -> None:
    """Two disks to two datastores of the other host. It arrives paused, and goes on there with all that it had."""
    one = crossing(Disk("vda", ssd, size="48MiB"), Disk("vdb", ssd, size="48MiB"))
    one.write()
    one.source.virsh("suspend", one.name)
    said = one.move("--to", "kvm2-disks", "--disk", "vdb=kvm2-archive")
    one.assert_moved(said, "paused")
    places = {disk["target"]: disk["datastore"] for disk in said.move["plan"]["disks"]}
    assert places == {"vda": "kvm2-disks", "vdb": "kvm2-archive"}, said
    kvm2.virsh("resume", one.name)
    one.assert_alive()


def test_old_disks_are_kept_and_the_way_back(
    crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore
) -> None:
    """Old disks are kept at the source, shown with their host, and are in nobody's way when the VM returns."""
    one = crossing(Disk("vda", ssd, size="48MiB"))
    one.write()
    old = Path(one.guest.spec.disk("vda").path)
    one.assert_moved(one.move("--to", "kvm2-disks", "--keep-source", "7d"))
    [kept] = one.line.must("quarantine", "list").document["kept"]
    assert (kept["kept"]["path"], kept["host"], kept["doubt"], kept["altered"]) == (str(old), "kvm1", None, False), kept
    assert one.line.must("--host", "kvm2", "orphans").document["orphans"] == []
    refused = one.line.do("--host", "kvm1", "quarantine", "restore", old, "--yes")
    assert refused.status != 0, refused
    # The lab shows the first host the directory of every datastore: the disk is made to go along.
    back = one.line.must("move", one.name, "--to-host", "kvm1", "--disk", "vda=ssd")
    [disk] = back.move["plan"]["disks"]
    assert disk["dest"] != str(old), back
    one.guest.host = one.source
    one.assert_alive()
    assert old.exists()
    assert not kvm2_disks.home(one.name).exists(), "the old home at the host that it has left"
    one.line.must("quarantine", "purge", "--now", "--yes", old)
    assert not old.exists()
    assert one.line.must("quarantine", "list").document["kept"] == []


def test_refused_with_all_reasons(crossing: Callable[..., Crossing], ssd: Datastore, kvm2: Host) -> None:
    """A disk that the other host does not have, and a name that is taken there: both are said, and nothing is made."""
    one = crossing(Disk("vda", ssd, size="32MiB"), start=False)
    kvm2.virsh("define", "/dev/stdin", stdin=TAKEN.format(name=one.name))
    line = one.line
    try:
        said = line.do("--host", "kvm1", "move", one.name, "--to-host", "kvm2")
        assert (said.status, said.code) == (4, "REFUSED"), said
        assert sorted(said.codes) == ["DISK_NOT_SHARED", "VM_NAME_TAKEN"], said
        checked = line.do("--host", "kvm1", "check", one.name, "--to-host", "kvm2")
        codes = sorted(finding["code"] for finding in checked.document["check"]["findings"])
        assert (checked.status, codes) == (4, sorted(said.codes)), checked
        unknown = line.do("--host", "kvm1", "check", one.name, "--to-host", "kvm1")
        assert [one["code"] for one in unknown.document["check"]["findings"]] == ["SAME_HOST"], unknown
    finally:
        kvm2.virsh("undefine", one.name)
    assert not line.rows("SELECT id FROM moves")


NIC = """<interface type='bridge'>
  <mac address='52:54:00:aa:00:01'/><source bridge='vmbr-a'/><model type='virtio'/><rom enabled='no'/><mtu size='1400'/>
</interface>"""
GUEST_ADDRESS = "10.213.0.200"
TALK = f"""
import socket, time
link = socket.create_connection(("{GUEST_ADDRESS}", 7000), timeout=60)
link.settimeout(120)
answers = link.makefile()
for number in range(10**9):
    link.sendall(f"{{number}}\\n".encode())
    assert answers.readline() == f"{{number}}\\n", number
    print(number, flush=True)
    time.sleep(0.05)
"""


@contextlib.contextmanager
def _bridge(host: Host, name: str) -> Iterator[None]:
    """The host's link to the lab's switch is a port of a bridge of this name, which has the host's address."""
    address = f"{(host.directory / 'address').read_text()}/24"
    steps = f"ip link add {name} type bridge && ip link set {name} up && ip address del {address} dev eth0 && "
    steps += f"ip link set eth0 master {name} && ip address add {address} dev {name}"
    host.run(["sh", "-c", steps])
    try:
        yield
    finally:
        host.run(["sh", "-c", f"ip link del {name} && ip address add {address} dev eth0"])


def test_a_bridge_of_another_name(crossing: Callable[..., Crossing], ssd: Datastore, desk: Host) -> None:
    """A TCP session from a third host goes on. Without the name of the bridge there the move is refused."""
    with contextlib.ExitStack() as undo:
        crossed = crossing(Disk("vda", ssd, size="32MiB"), start=False, extra_devices=NIC)
        undo.enter_context(_bridge(crossed.source, "vmbr-a"))
        undo.enter_context(_bridge(crossed.dest, "vmbr-b"))
        undo.callback(lambda: crossed.line.host.run(["virsh", "-q", "destroy", crossed.name], check=False))
        undo.callback(lambda: crossed.dest.run(["virsh", "-q", "destroy", crossed.name], check=False))
        crossed.guest.start()
        crossed.write()
        crossed.guest.sh(f"ip address add {GUEST_ADDRESS}/24 dev eth0 && ip link set eth0 up")
        crossed.guest.sh("nc -ll -p 7000 -e cat >/dev/null 2>&1 </dev/null &")
        said = crossed.move("--to", "kvm2-disks")
        assert (said.code, said.codes) == ("REFUSED", ["NETWORK_MISSING"]), said
        assert "--map-network vmbr-a=NAME" in said.document["message"], said
        assert "it has: vmbr-b" in said.document["message"], said
        said = crossed.move("--to", "kvm2-disks", "--map-network", "vmbr=vmbr-b", "--map-network", "vmbr-a=vmbr-b")
        assert said.codes == ["NETWORK_NOT_NAMED"], said
        heard = undo.enter_context((crossed.line.directory / "answers").open("w"))
        talk = desk.popen([sys.executable, "-c", TALK], stdout=heard, stderr=subprocess.STDOUT, text=True)
        undo.callback(talk.wait)
        undo.callback(talk.kill)
        _wait_answers(talk, heard.name, 10)
        before = crossed.source.virsh("dumpxml", crossed.name, "--inactive")
        report = crossed.assert_moved(crossed.move("--to", "kvm2-disks", "--map-network", "vmbr-a=vmbr-b"))
        assert report["networks"] == {"vmbr-a": "vmbr-b"}, report
        crossed.assert_alive()
        _wait_answers(talk, heard.name, len(Path(heard.name).read_text().splitlines()) + 10)
        assert _interface(before).replace("vmbr-a", "vmbr-b") == _interface(
            crossed.dest.virsh("dumpxml", crossed.name, "--inactive")
        )
        assert "vmbr-b" in crossed.dest.virsh("domiflist", crossed.name)


@contextlib.contextmanager
def _network(host: Host, name: str, bridge: str) -> Iterator[None]:
    """An inactive network of the host's bridge; the bridge is there."""
    host.run(["ip", "link", "add", bridge, "type", "bridge"])
    xml = f"<network><name>{name}</name><forward mode='bridge'/><bridge name='{bridge}'/></network>"
    host.virsh("net-define", "/dev/stdin", stdin=xml)
    try:
        yield
    finally:
        host.run(["virsh", "-q", "net-destroy", name], check=False)
        host.virsh("net-undefine", name)
        host.run(["ip", "link", "del", bridge])


def test_networks_of_another_name(crossing: Callable[..., Crossing], ssd: Datastore) -> None:
    """There while it runs, and back when it is off, killed in between; a network that is not active is told."""
    nic = NIC.replace("type='bridge'", "type='network'", 1).replace("bridge='vmbr-a'", "network='lan-a'")
    crossed = crossing(Disk("vda", ssd, size="32MiB"), start=False, extra_devices=nic)
    source, dest, line = crossed.source, crossed.dest, crossed.line
    with _network(source, "lan-a", "vmbr-a"), _network(dest, "lan-b", "vmbr-b"):
        source.virsh("net-start", "lan-a")
        before = source.virsh("dumpxml", crossed.name)
        crossed.guest.start()
        crossed.write()
        asked = "--to", "kvm2-disks", "--map-network", "lan-a=lan-b"
        said = crossed.move(*asked)
        assert said.codes == ["NETWORK_MISSING"], said
        assert "virsh net-start lan-b" in said.document["message"], said
        dest.virsh("net-start", "lan-b")
        crossed.assert_moved(crossed.move(*asked))
        assert "vmbr-b" in dest.virsh("dumpxml", crossed.name)
        assert _interface(dest.virsh("dumpxml", crossed.name, "--inactive")) == _interface(before).replace("-a'", "-b'")
        crossed.assert_alive()
        crossed.guest.poweroff()
        back = "move", crossed.name, "--to-host", "kvm1", "--to", "ssd", "--map-network", "lan-b=lan-a"
        assert line.do(*back, point="defined:kill").killed
        assert line.do("resume", crossed.name).move["state"] == "moved"
        crossed.guest.host = source
        assert crossed.states() == ("shut off", "absent")
        assert _interface(source.virsh("dumpxml", crossed.name)) == _interface(before)


def _interface(xml: str) -> str:
    return xml[xml.index("<interface") : xml.index("</interface>")]


def _wait_answers(talk: HostProcess, path: str, count: int) -> None:
    """Until the session has had so many answers. It must not have ended."""

    def had() -> bool:
        text = Path(path).read_text()
        assert talk.poll() is None, text[-2000:]
        return len(text.splitlines()) >= count

    wait_until(had, f"{count} answers over TCP", timeout=120, report=lambda: Path(path).read_text()[-2000:])


def _areas(said: Said) -> dict[str, set[str]]:
    """Area -> levels that were said of it."""
    found: dict[str, set[str]] = {}
    for check in said.document["preparation"]["checks"]:
        found.setdefault(check["area"], set()).add(check["level"])
    return found


def test_a_host_is_prepared(line: CrossingLine, far: Host, kvm2: Host) -> None:
    """Both directions are tried, nothing is changed, and the commands are for what is missing."""
    said = line.do("hosts", "prepare", "kvm2")
    areas = _areas(said)
    assert "ok" in areas["kvm1 to kvm2"], said
    assert "ok" in areas["kvm2 to kvm1"], said
    assert areas["tls"] == {"warning"}, said
    assert any(line_.startswith("openssl req -newkey") for line_ in said.document["preparation"]["commands"]), said
    wrong = f'[hosts.kvm1]\nuri = "{far.ssh_uri}"\n[hosts.kvm2]\nuri = "{kvm2.ssh_uri}"\n'
    wrong += 'address = "10.213.0.99"\npeer_uri = "qemu+ssh://nowhere/system"\n'
    (line.directory / "hosts.toml").write_text(wrong)
    said = line.do("hosts", "prepare", "kvm2")
    assert said.status == 10, said
    texts = [check["text"] for check in said.document["preparation"]["checks"] if check["area"] == "kvm1 to kvm2"]
    for code in ("PEER_UNREACHABLE", "PORT_CLOSED"):
        assert any(code in text for text in texts), said
    assert any("ssh-keyscan nowhere" in command for command in said.document["preparation"]["commands"]), said
    assert "ok" in _areas(said)["kvm2 to kvm1"], said


def test_a_prepared_host_has_certificates(line: CrossingLine, far: Host, kvm2: Host, tmp_path: Path) -> None:
    """Valid ones of one authority; then one that has expired, of another authority."""
    confs = {host: (host.directory / "etc-libvirt/qemu.conf").read_text() for host in (far, kvm2)}
    try:
        for host in (far, kvm2):
            Authority(tmp_path / "ca").equip(host)
        said = line.do("hosts", "prepare", "kvm2")
        assert _areas(said)["tls"] == {"ok"}, said
        assert any("same certificate authority" in check["text"] for check in said.document["preparation"]["checks"]), (
            said
        )
        Authority(tmp_path / "other").equip(kvm2, days=-1)
        said = line.do("hosts", "prepare", "kvm2")
        assert said.status == 10, said
        texts = [check["text"] for check in said.document["preparation"]["checks"] if check["level"] == "error"]
        assert any("TLS_EXPIRED" in text for text in texts), said
        assert any("do not have the same ca-cert.pem" in text for text in texts), said
    finally:
        for host, conf in confs.items():
            (host.directory / "etc-libvirt/qemu.conf").write_text(conf)
            shutil.rmtree(host.directory / "etc-libvirt" / Path(QEMU_DIRECTORY).name, ignore_errors=True)
            host.restart_libvirtd()


@pytest.fixture
def awake(far: Host, kvm2: Host) -> None:
    """Both libvirtd have looked at every QEMU: on a busy machine that takes longer than a host is waited for."""
    for host in (far, kvm2):
        host.virsh("capabilities", timeout=LIMIT_S)


def _batch_ends(said: Said) -> dict[str, str]:
    return {end["vm"]: end["state"] for end in said.document["ends"]}


@pytest.mark.usefixtures("awake")
def test_a_host_is_emptied(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    """Nothing is begun while one is refused; then the command is killed, and the same command goes on with the rest."""
    first = crossing(Disk("vda", ssd, size="64MiB", fill="32MiB"))
    first.write()
    off = crossing(Disk("vda", ssd, size="48MiB", fill="16MiB"), start=False)
    stays = crossing(Disk("vda", ssd, size="32MiB"), start=False)
    line, source, dest = first.line, first.source, first.dest
    dest.virsh("define", "/dev/stdin", stdin=TAKEN.format(name=stays.name))
    asked = "move", "--all-on", "kvm1", "--to-host", "kvm2", "--to", "kvm2-disks"
    try:
        said = line.do(*asked)
        assert said.status == 4, said
        refused = {one["vm"]: [reason["code"] for reason in one["reasons"]] for one in said.document["vms"]}
        assert refused == {first.name: [], off.name: [], stays.name: ["VM_NAME_TAKEN"]}, str(said)
        assert not line.rows("SELECT id FROM moves")
        process = line.start(*asked, "--skip-refused", "--parallel", "1", "--bandwidth", "16MiB/s")
        wait_until(lambda: bool(line.rows("SELECT id FROM moves")), "the first move", timeout=LIMIT_S, step=0.1)
        process.kill()
        assert line.end(process).killed
        said = line.do(*asked, "--skip-refused")
        assert said.status == 4, f"{said}\n{line.stories()}"
        ends = _batch_ends(said)
        assert ends.pop(stays.name) == "refused", said
        assert set(ends.values()) <= {"moved"}, f"{said}\n{line.stories()}"  # one may have arrived before it was asked
        assert off.states() == ("absent", "shut off"), said
        assert first.states() == ("absent", "running"), said
        assert source.vm_state(stays.name) == "shut off"
        assert len(line.history()) == 2
        first.guest.host = off.guest.host = dest
        first.assert_alive()
    finally:
        dest.virsh("undefine", stays.name)
    said = line.do(*asked)
    assert (said.status, _batch_ends(said)) == (0, {stays.name: "moved"}), said


@pytest.mark.usefixtures("awake")
def test_a_batch_is_cancelled(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    """By SIGINT without a terminal: those that run are cancelled, and the others are not begun."""
    guests = [
        crossing(Disk("vda", ssd, size="512MiB", fill="256MiB")),
        crossing(Disk("vda", ssd, size="32MiB"), start=False),
    ]
    guests.sort(key=lambda one: one.name)
    line = guests[0].line
    asked = "move", "--all-on", "kvm1", "--to-host", "kvm2", "--to", "kvm2-disks", "--bandwidth", "4MiB/s"
    process = line.start(*asked, "--parallel", "1")
    wait_until(lambda: guests[0].states()[1] == "paused", "a copy", timeout=LIMIT_S, step=0.2)
    process.send_signal(signal.SIGINT)
    said = line.end(process)
    assert said.status == 6, f"{said}\n{line.stories()}"
    assert "cancelled" in _batch_ends(said).values(), said
    for one in guests:
        if _batch_ends(said)[one.name] != "moved":
            one.assert_back(kvm2_disks.home(one.name))


@pytest.mark.usefixtures("awake")
def test_a_datastore_is_emptied(crossing: Callable[..., Crossing], old_san: Datastore, ssd: Datastore) -> None:
    """By the same code: two VMs at a time, on whichever host they are; one that has no disk there stays as it is."""
    guests = [crossing(Disk("vda", old_san, size="48MiB", fill="16MiB")) for _ in range(2)]
    other = crossing(Disk("vda", ssd, size="32MiB"), start=False)
    for one in guests:
        one.write()
    line = guests[0].line
    assert line.do("move", "--all-on", "old-sann", "--to", "ssd").status == 3, "it is no empty datastore"
    assert line.do("move", "--all-on", "kvm1", "--to", "ssd").status == 2, "--to-host was forgotten"
    said = line.do("move", "--all-on", "old-san", "--to", "ssd")
    assert (said.status, _batch_ends(said)) == (0, {one.name: "moved" for one in guests}), said
    assert {end["host"] for end in said.document["ends"]} == {"kvm1"}
    for one in guests:
        assert Path(one.guest.sources()["vda"]).parent.parent == ssd.path
        one.assert_alive()
    assert other.states() == ("shut off", "absent")
