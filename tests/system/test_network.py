"""Disks that go to an export of a server and come back from it: real servers (qemu-nbd, tgt), under the judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from lab import Datastore, Disk, Guest, Host
from lab.namespaces import HostProcess
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage

pytestmark = pytest.mark.lab

SIZE = "48MiB"


@dataclass
class Server:
    """qemu-nbd on the VM's host, with one export; by TCP or by a socket."""

    host: Host
    file: Path
    name: str
    port: int = 0
    process: HostProcess | None = None

    @property
    def uri(self) -> str:
        return (
            f"nbd://127.0.0.1:{self.port}/{self.name}" if self.port else f"nbd+unix:///{self.name}?socket={self.socket}"
        )

    @property
    def socket(self) -> Path:
        return self.file.with_suffix(".sock")

    def start(self) -> None:
        where = [f"--port={self.port}", "--bind=127.0.0.1"] if self.port else [f"--socket={self.socket}"]
        words = ["qemu-nbd", "--persistent", "--shared=8", "--format=raw", "--cache=none", "--discard=unmap"]
        self.process = self.host.popen([*words, *where, f"--export-name={self.name}", str(self.file)])

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, "qemu-nbd has ended"
            return self.info()

        wait_until(answers, f"the server of {self.uri}", timeout=60)
        if not self.port:
            self.socket.chmod(0o666)  # QEMU connects as a user of its own

    def info(self) -> bool:
        return self.host.run(["qemu-img", "info", "-U", "-f", "raw", self.uri], check=False).returncode == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None


class Target(Server):
    """tgt, an iSCSI target that needs nothing of the kernel, with one LUN."""

    target = "iqn.2026-11.lab:web"

    @property
    def uri(self) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{self.target}/1"

    def start(self) -> None:
        self.process = self.host.popen(
            ["tgtd", "--foreground", "--control-port=7", "--iscsi", f"portal=127.0.0.1:{self.port}"]
        )
        words = ["tgtadm", "--control-port=7", "--lld=iscsi"]

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, "tgtd has ended"
            return self.host.run([*words, "--op=show", "--mode=target"], check=False).returncode == 0

        wait_until(ready, "tgtd", timeout=60)
        self.host.run([*words, "--op=new", "--mode=target", "--tid=1", f"--targetname={self.target}"])
        self.host.run([*words, "--op=new", "--mode=logicalunit", "--tid=1", "--lun=1", f"--backing-store={self.file}"])
        self.host.run([*words, "--op=bind", "--mode=target", "--tid=1", "--initiator-address=ALL"])
        wait_until(self.info, f"the target of {self.uri}", timeout=60)


@pytest.fixture(params=["tcp", "socket", "iscsi"])
def server(request: pytest.FixtureRequest, lab_host: Host, ssd: Datastore) -> Iterator[Server]:
    if request.param == "iscsi":
        yield from _server(lab_host, ssd, 3260, Target)
    else:
        yield from _server(lab_host, ssd, 10809 if request.param == "tcp" else 0)


@pytest.fixture
def by_tcp(lab_host: Host, ssd: Datastore) -> Iterator[Server]:
    yield from _server(lab_host, ssd, 10810)


def _server(host: Host, store: Datastore, port: int, kind: type[Server] = Server) -> Iterator[Server]:
    file = store.path / "export.raw"
    with file.open("wb") as made:
        made.write(b"what was there before " * 100_000)
        made.truncate(48 << 20)
    server = kind(host, file, "web-vda", port)
    server.start()
    yield server
    server.stop()
    file.unlink()
    server.socket.unlink(missing_ok=True)


def place(guest: Guest, *, inactive: bool = False) -> str:
    """Where the one disk is, as the XML has it; an export as `protocol name host:port`."""
    [disk] = etree.fromstring(guest.xml(inactive=inactive)).findall("./devices/disk")
    source = disk.find("source")
    assert source is not None
    if disk.get("type") == "file":
        return str(source.get("file"))
    [host] = source.findall("host")
    where = host.get("socket") or f"{host.get('name')}:{host.get('port')}"
    return f"{source.get('protocol')} {source.get('name')} {where}"


def expected(server: Server) -> str:
    if isinstance(server, Target):
        return f"iscsi {server.target}/1 127.0.0.1:{server.port}"
    where = f"127.0.0.1:{server.port}" if server.port else str(server.socket)
    return f"nbd {server.name} {where}"


def assert_at(voyage: Voyage, where: str) -> None:
    report = voyage.line.stories()
    assert place(voyage.guest) == place(voyage.guest, inactive=True) == where, report
    for inactive in (False, True):
        assert "<mirror" not in voyage.guest.xml(inactive=inactive), report
        assert "urn:blockferry:move" not in voyage.guest.xml(inactive=inactive), report
    assert voyage.line.unfinished() == [], report
    voyage.assert_no_guard()
    voyage.assert_content()
    assert voyage.guest.host.virsh("domblkerror", voyage.name).strip() in ("", "No errors found")


@pytest.fixture
def voyage(make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore) -> Voyage:
    guest = make_guest([Disk("vda", old_san, "raw", size=SIZE, fill="16MiB")], start=True)
    found = Voyage(guest, line, stores)
    found.write()
    return found


def test_in_and_out_while_the_guest_writes(voyage: Voyage, server: Server, old_san: Datastore) -> None:
    """In by the default method, out by mirror; the file is released, what is behind the server never."""
    old = voyage.where["vda"]
    said = voyage.line.must("check", voyage.name, "--disk", f"vda={server.uri}")
    assert "EXPORT_OVERWRITTEN" in {found["code"] for found in said.document["check"]["findings"]}
    done = voyage.line.must("move", voyage.name, "--disk", f"vda={server.uri}").move
    assert done["plan"]["method"] == "changed-blocks"
    assert_at(voyage, expected(server))
    assert not old.exists(), done["report"]["sources"]
    voyage.guest.judge.stop()
    voyage.guest.poweroff()
    verdict = voyage.guest.judge.check_image("vda", server.file, "raw")
    assert verdict.ok, str(verdict)

    off = voyage.line.do("move", voyage.name, "--disk", f"vda={old_san.name}")
    assert (off.status, "EXPORT_OFF" in str(off)) == (4, True), str(off)
    voyage.guest.start()
    voyage.write()
    done = voyage.line.must("move", voyage.name, "--disk", f"vda={old_san.name}", "--method", "mirror").move
    new = old_san.path / f"{voyage.name}-vda.raw"
    assert_at(voyage, str(new))
    assert any("left as it is" in text for text in done["report"]["sources"]), done["report"]
    assert server.file.exists()
    assert place(voyage.guest) == done["plan"]["disks"][0]["dest"]
    voyage.guest.judge.stop()
    voyage.guest.poweroff()
    verdict = voyage.guest.judge.check_image("vda", new, "raw")
    assert verdict.ok, str(verdict)


def test_a_vm_that_is_off_goes_in(voyage: Voyage, by_tcp: Server) -> None:
    old = voyage.where["vda"]
    voyage.guest.judge.stop()
    voyage.guest.poweroff()
    done = voyage.line.must("move", voyage.name, "--disk", f"vda={by_tcp.uri}").move
    assert done["plan"]["method"] == "cold"
    assert place(voyage.guest, inactive=True) == expected(by_tcp)
    assert not old.exists()
    voyage.guest.start()
    voyage.write()
    assert_at(voyage, expected(by_tcp))


def test_a_server_that_dies_under_the_copy_costs_the_move_and_nothing_else(voyage: Voyage, by_tcp: Server) -> None:
    old = voyage.where["vda"]
    process = voyage.line.start("move", voyage.name, "--disk", f"vda={by_tcp.uri}", "--bandwidth", "3MiB/s")
    voyage.line.wait_unfinished()
    wait_until(lambda: "<mirror" in voyage.guest.xml(), "the copy", timeout=120, report=voyage.line.stories)
    voyage.guest.judge.wait_writes(20)
    by_tcp.stop()
    said = voyage.line.end(process)
    assert (said.status, said.code) == (5, "MOVE_FAILED"), str(said)
    assert_at(voyage, str(old))


@pytest.mark.parametrize("point", ["copy-called", "pivoting", "pivoted", "config-written"])
def test_killed_on_the_way_it_goes_on(voyage: Voyage, by_tcp: Server, point: str) -> None:
    said = voyage.line.do("move", voyage.name, "--disk", f"vda={by_tcp.uri}", point=f"{point}:kill")
    assert said.killed, str(said)
    voyage.wait_running()
    voyage.line.do("resume", voyage.line.wait_unfinished())
    voyage.line.wait_finished()
    assert_at(voyage, expected(by_tcp))


def test_cancelled_on_the_way_it_stays(voyage: Voyage, by_tcp: Server) -> None:
    old = voyage.where["vda"]
    assert voyage.line.do("move", voyage.name, "--disk", f"vda={by_tcp.uri}", point="copying:kill").killed
    move = voyage.line.wait_unfinished()
    voyage.line.must("cancel", move)
    done = voyage.line.wait_finished_of(voyage.name)
    assert done["record"]["outcome"] == "cancelled"
    assert any("not removed" in text for text in done["report"]["sources"])
    assert_at(voyage, str(old))
    assert by_tcp.file.exists()


def test_what_does_not_fit_is_refused_by_name(voyage: Voyage, by_tcp: Server, lab_host: Host) -> None:
    def codes(*words: str, to: str = by_tcp.uri) -> set[str]:
        said = voyage.line.do("check", voyage.name, "--disk", f"vda={to}", *words)
        return {found["code"] for found in said.document["check"]["findings"]}

    assert "EXPORT_LIMITS" in codes("--verify")
    assert "EXPORT_LIMITS" in codes("--method", "snapshot")
    assert "EXPORT_LIMITS" in codes("--on-break", "keep")
    assert "EXPORT_FORMAT" in codes("--format", "qcow2")
    assert "HANG_UNBOUNDED" in codes("--method", "mirror")
    assert "EXPORT_UNUSABLE" in codes(to=by_tcp.uri + "-not")
    said = voyage.line.do("check", voyage.name, "--disk", "vda=gluster://store/volume/web01-vda")
    assert said.status == 2, str(said)
    by_tcp.stop()
    assert "EXPORT_UNUSABLE" in codes()
    with by_tcp.file.open("r+b") as file:
        file.truncate(64 << 20)
    by_tcp.start()
    assert "EXPORT_SIZE" in codes()
