"""What `doctor` says: judgements on facts, by tables; and how the command shows them."""

from __future__ import annotations

import dataclasses
import errno
import json

import pytest
from cli_fake import FakeClient, summary
from hypothesis import given
from hypothesis import strategies as st

from blockferry.base.units import GiB, MiB
from blockferry.cli import main
from blockferry.cli.app import App
from blockferry.doctor import rules as doctor_rules
from blockferry.doctor.rules import DatastoreDirectory, Diagnosis, HostCheck, JournalState, Leftovers, Level
from blockferry.hosts.defects import DEFECTS, Remedy, Versions, present
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, PowerState, Vm
from blockferry.hosts.qemu_user import QemuUser

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
STORE = Datastore("ssd", "u", "dir", True, "/ssd", 100 * GiB, 50 * GiB, autostart=True)
PLACE = DatastoreDirectory(filesystem="xfs", identity=(8, 2), free=50 * GiB, size=100 * GiB, reflink=True)
STATE = JournalState("/var/lib/blockferry/journal.db", "0001", (), 0.0, 10 * GiB)


def levels(checks: list[HostCheck]) -> list[Level]:
    return [check.level for check in checks]


def worst(checks: list[HostCheck]) -> Level:
    return max((check.level for check in checks), key=[OK, WARNING, ERROR].index)


def vm(**disk: object) -> Vm:
    source = DiskSource("file", "/old/web01/vda.qcow2", "qcow2")
    one = dataclasses.replace(Disk("vda", "disk", "virtio", source, source), **disk)  # type: ignore[arg-type]
    return Vm("web01", "uuid", PowerState.RUNNING, True, (one,))


@pytest.mark.parametrize(
    ("libvirt", "qemu", "level"),
    [((9, 0, 0), (7, 2, 22), OK), ((7, 9, 0), (7, 2, 22), ERROR), ((9, 0, 0), (5, 2, 0), ERROR)],
)
def test_floors(libvirt: tuple[int, int, int], qemu: tuple[int, int, int], level: Level) -> None:
    checks = doctor_rules.versions(Versions(libvirt, qemu), qemu, [vm()], [])
    assert worst([check for check in checks if check.area == "versions"]) is level


def test_every_defect_of_the_host_is_a_line() -> None:
    found = Versions((9, 0, 0), (8, 1, 0))
    text = "\n".join(version.text for version in doctor_rules.versions(found, (8, 1, 0), [vm(iothread=True)], []))
    for defect in DEFECTS:
        assert (defect.id in text) is (defect in present(found))


@pytest.mark.parametrize(
    ("id", "disk", "level"),
    [
        ("QEMU_IDE_TRIM_DRAIN", {"bus": "sata", "discard": "unmap"}, WARNING),
        ("QEMU_IDE_TRIM_DRAIN", {"bus": "sata"}, OK),
        ("QEMU_DISCARD_WRITE_RACE", {"discard": "unmap"}, WARNING),
        ("QEMU_DISCARD_WRITE_RACE", {}, OK),
        ("LIBVIRT_JOB_TRANSITIONS", {}, OK),
        ("QEMU_MIRROR_EARLY_WRITE", {"iothread": True}, OK),
    ],
)
def test_a_defect_worries_only_where_a_vm_can_meet_it(id: str, disk: dict[str, object], level: Level) -> None:
    checks = doctor_rules.versions(Versions((9, 0, 0), (7, 2, 22)), None, [vm(**disk)], [])
    (line,) = [check for check in checks if check.text.startswith(id)]
    assert line.level is level
    assert (level is OK) or "web01" in line.text


@given(st.sampled_from(DEFECTS), st.booleans())
def test_what_is_dealt_with_never_worries(defect: object, iothread: bool) -> None:
    one = next(known for known in DEFECTS if known is defect)
    version = one.spans[0].since
    found = Versions(version, version)
    for check in doctor_rules.versions(
        found, None, [vm(iothread=iothread, bus="sata", discard="unmap", io="io_uring")], []
    ):
        if check.text.startswith(f"{one.id} "):
            assert (check.level is OK) is (one.remedy not in (Remedy.TOLD, Remedy.REFUSED) or "No VM" in check.text)


def test_replaced_and_unequal_versions() -> None:
    checks = doctor_rules.versions(Versions((9, 0, 0), (7, 2, 22)), (8, 2, 1), [], ["web01"])
    assert [check.text.split()[0] for check in checks if check.level is WARNING] == ["qemu-img", "web01"]


def test_a_vm_s_own_qemu_has_its_own_defects() -> None:
    found = Versions((9, 0, 0), (8, 2, 5))
    own = {"web01": (7, 2, 5)}
    checks = doctor_rules.versions(found, (8, 2, 5), [vm(bus="sata")], ["web01"], own)
    assert any("web01 still runs in QEMU 7.2.5, which" in check.text for check in checks if check.level is WARNING)
    (line,) = [check for check in checks if check.text.startswith("CVE_2023_5088")]
    assert line.level is WARNING
    assert "7.2.5 in which web01 runs" in line.text
    (line,) = [
        version
        for version in doctor_rules.versions(
            Versions((9, 0, 0), (7, 2, 5)), None, [vm(bus="sata")], [], {"web01": (8, 2, 5)}
        )
        if version.text.startswith("CVE_2023_5088")
    ]
    assert line.level is OK


@pytest.mark.parametrize(
    ("store", "place", "level", "words"),
    [
        ({}, {}, OK, "can share blocks"),
        ({}, {"reflink": False}, OK, "cannot share blocks"),
        ({"active": False}, None, WARNING, "although it is to start"),
        ({"active": False, "autostart": False}, None, WARNING, "not active."),
        ({"kind": "logical"}, None, OK, "cannot move there yet"),
        ({}, {"problem": "its directory /ssd is missing"}, ERROR, "missing"),
        ({}, {"free": 0}, ERROR, "full"),
        ({}, {"free": 2 * GiB}, WARNING, "nearly full"),
        ({}, {"free": 500 * MiB, "size": GiB}, WARNING, "nearly full"),
        ({"autostart": False}, {}, WARNING, "after a reboot"),
        ({}, {"filesystem": "nfs"}, OK, "Other hosts"),
    ],
)
def test_datastores(store: dict[str, object], place: dict[str, object] | None, level: Level, words: str) -> None:
    datastore = dataclasses.replace(STORE, **store)  # type: ignore[arg-type]
    places = {} if place is None else {"ssd": dataclasses.replace(PLACE, **place)}  # type: ignore[arg-type]
    (check,) = doctor_rules.datastores([datastore], places)
    assert check.level is level
    assert words in check.text


def test_one_directory_twice() -> None:
    other = dataclasses.replace(STORE, name="alias", path="/mnt/ssd")
    third = dataclasses.replace(STORE, name="hdd", path="/hdd")
    places = {"ssd": PLACE, "alias": PLACE, "hdd": dataclasses.replace(PLACE, identity=(8, 3))}
    checks = doctor_rules.datastores([STORE, other, third], places)
    assert levels(checks) == [OK, OK, OK, WARNING]
    assert "ssd and alias" in checks[-1].text


@pytest.mark.parametrize(
    ("synchronised", "offset_s", "uncertainty_s", "remote", "expected"),
    [
        (True, 0.0, 0.0, False, [OK]),
        (None, 900.0, 0.0, False, [OK]),  # here: it is our own clock, whatever the measurement says
        (False, 0.0, 0.0, False, [WARNING]),
        (True, 1.5, 0.1, True, [OK, OK]),
        (True, -30.0, 0.1, True, [OK, WARNING]),
        (True, 30.0, 29.0, True, [OK, OK]),  # a slow way proves nothing
        (True, 4000.0, 1.0, True, [OK, ERROR]),
    ],
)
def test_clocks(
    synchronised: bool | None, offset_s: float, uncertainty_s: float, remote: bool, expected: list[Level]
) -> None:
    assert (
        levels(
            doctor_rules.clock(synchronised=synchronised, offset_s=offset_s, uncertainty_s=uncertainty_s, remote=remote)
        )
        == expected
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [OK]),
        ({"faults": ("row 3 missing from index",)}, [ERROR]),
        ({"room": 10 * MiB}, [OK, WARNING]),
        ({"room": 1000}, [OK, ERROR]),
        ({"room": None}, [OK]),
        ({"exposed": True}, [OK, WARNING]),
        ({"clock_offset_s": -60.0}, [OK, WARNING]),
    ],
)
def test_the_journal(changes: dict[str, object], expected: list[Level]) -> None:
    assert levels(doctor_rules.journal(dataclasses.replace(STATE, **changes))) == expected  # type: ignore[arg-type]


def test_leftovers() -> None:
    assert levels(doctor_rules.leftovers(Leftovers((), (), (), ()))) == [OK]
    assert levels(doctor_rules.leftovers(Leftovers((), (), (), (), kept=2, kept_bytes=GiB))) == [OK]
    assert levels(doctor_rules.leftovers(Leftovers((), (), (), (), partial=("/a: a broken copy.",)))) == [OK]
    assert levels(doctor_rules.leftovers(Leftovers((), (), (), (), unsearched=("ssd is not active.",)))) == [WARNING]
    found = Leftovers(("Move 1a of web01",), (("Move 2b of db01", "why."),), ("/a: x.",), ("/b: y.",), 1, 1, ("/c",))
    assert levels(doctor_rules.leftovers(found)) == [WARNING, ERROR, WARNING, WARNING, WARNING]


def test_what_is_wrong_says_what_to_do() -> None:
    bad = [
        *doctor_rules.versions(Versions((7, 0, 0), (6, 1, 0)), (8, 0, 0), [vm(bus="sata", discard="unmap")], ["web01"]),
        *doctor_rules.tools(["qemu-img"]),
        *doctor_rules.datastores([], {}),
        *doctor_rules.datastores([STORE], {"ssd": dataclasses.replace(PLACE, free=0)}),
        *doctor_rules.clock(synchronised=False, offset_s=999.0, uncertainty_s=0.0, remote=True),
        *doctor_rules.journal(dataclasses.replace(STATE, faults=("x",), room=0, exposed=True, clock_offset_s=99.0)),
        *doctor_rules.leftovers(Leftovers(("a",), (("b", "c."),), ("d.",), ("e.",), 1, 1, ("f",))),
        *doctor_rules.guard(works=False),
        *doctor_rules.host_guard("virsh is not installed on the host"),
    ]
    assert sum(host_check.level is not OK for host_check in bad) > 15
    for host_check in bad:
        assert host_check.text.endswith(".")
        assert host_check.level is OK or host_check.remedy.endswith(".")


# ------------------------------------------------------------ the command


@pytest.mark.parametrize(("level", "status"), [(OK, 0), (WARNING, 0), (ERROR, 10)])
@pytest.mark.parametrize("as_json", [False, True])
def test_the_command(level: Level, status: int, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    checks = (HostCheck("tools", OK, "All there."), HostCheck("clock", level, "It is late.", "Wind it."))
    client = FakeClient(diagnosis=Diagnosis("qemu:///system", checks))
    client.journal["3f2a"] = summary("3f2a")  # interrupted
    with pytest.raises(SystemExit) as ended:
        main.root.main(["doctor", *(["--json"] if as_json else [])], obj=App(opener=lambda _uri, _journal: client))
    assert ended.value.code == status
    out = capsys.readouterr().out
    if as_json:
        document = json.loads(out)
        assert document["kind"] == "doctor"
        assert document["healthy"] is (status == 0)
        assert [one["level"] for one in document["checks"]] == ["ok", level.value]
    else:
        assert "It is late." in out
        assert "Wind it." in out
    assert client.log == [], "it only looks: no move is taken up"


# ------------------------------------------------------------ /dev/kvm


@pytest.mark.parametrize(
    ("number", "level", "words"),
    [
        (0, OK, "QEMU can use /dev/kvm"),
        (errno.ENOENT, OK, "There is no /dev/kvm"),
        (errno.EACCES, WARNING, "QEMU runs as user 64055, group 108, which may not open /dev/kvm"),
        (errno.ENODEV, WARNING, "No such device"),
    ],
)
def test_a_kvm_that_qemu_cannot_use(number: int, level: Level, words: str) -> None:
    """libvirt probes QEMU anew at every `virsh define` then: 13 to 16 s each."""
    (check,) = doctor_rules.kvm(QemuUser(64055, 108), number)
    assert check.level is level
    assert words in check.text
    assert ("takes 10 s or longer" in check.text) is (level is WARNING)
    assert bool(check.remedy) is (level is WARNING)
