"""UEFI variables and a vTPM: found, told, left alone while the VM runs, and brought along once it has been off.

The guest boots OVMF from a flash file of its own. That the variables are the same is judged by an attribute of the
file that only a guest with that very file has: a mark in its unused end, which the template does not carry.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Datastore, Disk, Guest, Host, Lab
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, assert_whole

pytestmark = pytest.mark.lab

CODE, TEMPLATE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
MARK = b"these are the variables of this guest"
AT = 0x41000 + 0x800
"""In the spare block of the firmware's fault-tolerant write, which OVMF does not use while nothing is written."""

POINTS = ("following", "nvram-named", "nvram-copied", "nvram-pointed", "releasing-nvram", "nvram-released")


@pytest.fixture(scope="module")
def uefi(lab_session: Lab, lab_host: Host, old_san: Datastore) -> Iterator[Guest]:
    nvram = old_san.home("uefi") / "uefi_VARS.fd"
    nvram.parent.mkdir(parents=True, exist_ok=True)
    data = bytearray(TEMPLATE.read_bytes())
    data[-len(MARK) :] = MARK
    nvram.write_bytes(data)
    guest = lab_session.guest(
        lab_host,
        "uefi",
        [Disk("vda", old_san, size="64MiB", fill="16MiB")],
        machine="q35",
        memory="256MiB",
        extra_os=f"<loader readonly='yes' type='pflash'>{CODE}</loader><nvram template='{TEMPLATE}'>{nvram}</nvram>",
        extra_devices=TPM,
    )
    yield guest
    lab_session.remove_guest(guest)
    for store in lab_session.datastores.values():
        store.clear_vm(guest.name)


def nvram_of(guest: Guest, *, inactive: bool = False) -> Path:
    found = re.search(r"<nvram[^>]*>([^<]*)</nvram>", guest.xml(inactive=inactive))
    assert found is not None
    return Path(found.group(1))


def state_of(line: Line, guest: Guest) -> str:
    moves = line.must("moves").document["moves"]
    return next((str(move["state"]) for move in moves if move["plan"]["vm"] == guest.name), "over")


def assert_its_own(path: Path) -> None:
    assert path.read_bytes().endswith(MARK), f"{path} does not hold the guest's variables"


def test_the_variables_of_a_running_vm_follow_when_it_has_been_off(
    long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore
) -> None:
    line, guest, old = long_line, uefi, old_san.home("uefi") / "uefi_VARS.fd"
    guest.start()
    guest.judge.start(rate=100)
    tpm = guest.host.directory / "lib" / "swtpm" / re.search(r"<uuid>(.*)</uuid>", guest.xml()).group(1)  # type: ignore[union-attr]
    assert list(tpm.rglob("*.permall")), "the guest has no vTPM: a check that cannot fail"

    checked = line.must("check", guest.name, "--to", "ssd").document["check"]
    assert {"NVRAM_FOLLOWS", "TPM_STAYS"} <= {one["code"] for one in checked["findings"]}
    assert checked["plan"]["nvram"]["source"] == str(old)
    assert checked["plan"]["vtpm"].endswith(tpm.name)

    done = line.must("move", guest.name, "--to", "ssd")
    assert done.move["state"] == "waiting"
    move = line.move_of(guest.name)
    assert move is not None
    assert state_of(line, guest) == "waiting"
    assert guest.sources()["vda"].startswith(f"{ssd.path}/")
    assert nvram_of(guest) == nvram_of(guest, inactive=True) == old
    line.must("resume", move)
    assert state_of(line, guest) == "waiting", "it did not wait"
    assert_its_own(old)
    assert not [one for one in line.must("orphans").document["orphans"] if str(old) in one["path"]]
    assert_whole(guest)

    # Half-way back: the second move takes over what the first has yet to do.
    line.must("move", guest.name, "--disk", "vda=old-san")
    second = line.move_of(guest.name)
    assert second is not None
    assert second != move
    last = line.history()[0]
    assert (last["id"], last["state"]) == (move, "moved")
    line.must("move", guest.name, "--to", "ssd")
    move = line.move_of(guest.name)
    assert move is not None
    assert nvram_of(guest) == old

    guest.poweroff()
    before = old.read_bytes()
    line.must("vms")  # any command
    done_move = line.wait_finished_of(guest.name)
    new = nvram_of(guest, inactive=True)
    assert done_move["id"] == move
    assert done_move["record"]["outcome"] == "moved"
    assert new.parent == ssd.home(guest.name)
    assert new.read_bytes() == before
    assert not old.exists()
    assert not old.parent.exists()
    assert_its_own(new)
    assert any(str(old) in one for one in done_move["report"]["sources"])
    assert not list(new.parent.glob("*.blockferry"))
    assert list(tpm.rglob("*.permall")), "the vTPM's state is gone"
    guest.start()
    assert nvram_of(guest) == new
    assert_its_own(new)
    guest.poweroff()


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("point", POINTS)
def test_killed_while_the_variables_follow(
    long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore, point: str
) -> None:
    """The VM is off, so that disks and variables go in one run; the next command goes on wherever that died."""
    line, guest = long_line, uefi
    old = nvram_of(guest, inactive=True)
    target = ssd if old.is_relative_to(old_san.path) else old_san
    said = line.do("move", guest.name, "--to", target.name, point=f"{point}:kill")
    assert said.killed, str(said)
    assert_its_own(nvram_of(guest, inactive=True))
    line.must("vms")
    assert line.wait_finished_of(guest.name)["record"]["outcome"] == "moved"
    new = nvram_of(guest, inactive=True)
    assert new.is_relative_to(target.path)
    assert_its_own(new)
    assert not old.exists()
    assert not list(new.parent.glob("*.blockferry"))


def test_a_start_between_the_copy_and_the_configuration_loses_nothing(
    long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore
) -> None:
    line, guest = long_line, uefi
    old = nvram_of(guest, inactive=True)
    target = ssd if old.is_relative_to(old_san.path) else old_san
    said = line.do("move", guest.name, "--to", target.name, point="nvram-copied:kill")
    assert said.killed, str(said)
    guest.start(wait=False)
    line.must("vms")
    assert state_of(line, guest) == "waiting"
    data = bytearray(old.read_bytes())
    data[-len(MARK) - 8 : -len(MARK)] = b"written!"
    guest.destroy()
    old.write_bytes(data)  # as the guest would have
    line.must("vms")
    wait_until(lambda: line.move_of(guest.name) is None, "the variables", timeout=120, report=line.stories)
    new = nvram_of(guest, inactive=True)
    assert new.read_bytes() == bytes(data)


def test_variables_that_libvirt_has_put_in_its_own_place(
    long_line: Line, make_guest: MakeGuest, ssd: Datastore
) -> None:
    """`<os firmware='efi'>`: the persistent configuration names no file, libvirt has one all the same."""
    line = long_line
    guest = make_guest([Disk("vda", line.stores[0], size="64MiB")], machine="q35")
    host = guest.host
    host.virsh("define", "/dev/stdin", stdin=guest.xml(inactive=True).replace("<os>", "<os firmware='efi'>"))
    old = host.directory / "lib/qemu/nvram" / f"{guest.name}_VARS.fd"
    old.parent.mkdir(parents=True, exist_ok=True)
    data = TEMPLATE.read_bytes()
    old.write_bytes(data[: -len(MARK)] + MARK)
    line.must("move", guest.name, "--to", "ssd")
    new = nvram_of(guest, inactive=True)
    assert new == ssd.home(guest.name) / old.name
    assert not old.exists()
    guest.start(wait=False)
    assert nvram_of(guest) == new
    assert_its_own(new)
    assert not old.exists()


def test_left_as_asked_and_cancelled_later(long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore) -> None:
    line, guest = long_line, uefi
    old = nvram_of(guest, inactive=True)
    here, there = ("old-san", "ssd") if old.is_relative_to(old_san.path) else ("ssd", "old-san")
    guest.start(wait=False)
    line.must("move", guest.name, "--to", there, "--firmware", "leave")
    assert line.move_of(guest.name) is None
    assert nvram_of(guest, inactive=True) == old
    line.must("move", guest.name, "--to", here)
    line.must("move", guest.name, "--to", there)
    move = line.move_of(guest.name)
    assert move is not None
    line.must("cancel", move)
    assert line.move_of(guest.name) is None
    assert nvram_of(guest, inactive=True) == old
    assert_its_own(old)
    guest.destroy()


# ---------------------------------------------------------------- --firmware now

KILLED_TWICE = (("saving", "restored"), ("vm-saved", "let-go"), ("restoring", "restored"))
"""In the first attempt the VM goes on with the old file, in the second one with the new one."""


def running(line: Line, guest: Guest) -> None:
    if line.host.vm_state(guest.name) != "running":
        guest.start()
        guest.judge.start(rate=100)


def image_of(guest: Guest) -> Path:
    return guest.host.directory / "lib/qemu/save" / f"{guest.name}.save"


def assert_on_its_new_file(line: Line, guest: Guest, target: Datastore, old: Path) -> None:
    """The guest writes on, QEMU has the new file open, both configurations name it, and nothing else is left."""
    new = nvram_of(guest)
    assert new == nvram_of(guest, inactive=True)
    assert new.is_relative_to(target.path)
    assert_its_own(new)
    assert not old.exists()
    assert not image_of(guest).exists()
    assert not list(new.parent.glob("*.blockferry"))
    assert line.host.vm_state(guest.name) == "running"
    held = {path.resolve() for path in Path(f"/proc/{line.host.qemu_pid(guest.name)}/fd").iterdir()}
    assert any(path.parts[-2:] == new.parts[-2:] for path in held), held
    assert_whole(guest)


def elsewhere(line: Line, guest: Guest, old_san: Datastore, ssd: Datastore) -> tuple[Path, Datastore]:
    """Its variables, and the datastore where neither they nor its disk are."""
    old = nvram_of(guest, inactive=True)
    here, there = (old_san, ssd) if old.is_relative_to(old_san.path) else (ssd, old_san)
    if not guest.sources()["vda"].startswith(f"{here.path}/"):
        line.must("move", guest.name, "--to", here.name)  # an earlier test has left them apart
    return old, there


def wait_up(line: Line, guest: Guest) -> None:
    """Without a command of blockferry's."""

    def up() -> bool:
        return line.host.vm_state(guest.name) == "running" and not image_of(guest).exists()

    wait_until(up, "the VM to go on", timeout=60, report=line.stories)


def test_the_variables_move_at_once_and_the_guest_goes_on(
    long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore
) -> None:
    line, guest = long_line, uefi
    running(line, guest)
    old, target = elsewhere(line, guest, old_san, ssd)
    content, boots = old.read_bytes(), guest.judge.ledger().boots
    tpm = {path: path.read_bytes() for path in (guest.host.directory / "lib" / "swtpm").rglob("*.permall")}
    words = (guest.name, "--to", target.name, "--firmware", "now")
    checked = line.must("check", *words).document["check"]
    assert "FIRMWARE_NOW" in {one["code"] for one in checked["findings"]}
    assert checked["plan"]["nvram"]["now"]["expected_s"] > 1
    done = line.must("move", *words)
    assert done.move["state"] == "moved"
    assert done.move["report"]["firmware_stall_s"] > 0
    assert_on_its_new_file(line, guest, target, old)
    assert nvram_of(guest).read_bytes() == content
    assert tpm
    assert tpm == {path: path.read_bytes() for path in tpm}
    assert guest.judge.ledger().boots == boots, "it was booted"

    guest.suspend()  # by its owner: it stays so
    old, target = elsewhere(line, guest, old_san, ssd)
    line.must("move", guest.name, "--to", target.name, "--firmware", "now")
    assert line.host.vm_state(guest.name) == "paused"
    guest.resume()
    assert_on_its_new_file(line, guest, target, old)
    assert guest.judge.ledger().boots == boots, "it was booted"


@pytest.mark.parametrize(("first", "second"), KILLED_TWICE)
def test_killed_while_the_vm_is_held(
    long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore, first: str, second: str
) -> None:
    """The VM is up again without any command, from its memory; the next command goes on."""
    line, guest = long_line, uefi
    running(line, guest)
    boots = guest.judge.ledger().boots
    old, target = elsewhere(line, guest, old_san, ssd)
    said = line.do("move", guest.name, "--to", target.name, "--firmware", "now", point=f"{first}:kill")
    assert said.killed, str(said)
    wait_up(line, guest)
    assert nvram_of(guest) == nvram_of(guest, inactive=True) == old
    move = line.move_of(guest.name)
    assert move is not None
    said = line.do("resume", move, point=f"{second}:kill")
    assert said.killed, f"{said}\n{line.stories()}"
    wait_up(line, guest)
    line.do("resume", move)
    assert line.wait_finished_of(guest.name)["record"]["outcome"] == "moved"
    assert_on_its_new_file(line, guest, target, old)
    assert guest.judge.ledger().boots == boots, "it was booted"


def test_libvirtd_dies_while_the_vm_is_held(long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore) -> None:
    line, guest = long_line, uefi
    running(line, guest)
    boots = guest.judge.ledger().boots
    old, target = elsewhere(line, guest, old_san, ssd)
    process = line.start("move", guest.name, "--to", target.name, "--firmware", "now", point="nvram-copied:sleep=4")
    while not image_of(guest).exists():
        assert process.poll() is None, f"it ended without a save\n{line.stories()}"
        time.sleep(0.002)
    line.host.restart_libvirtd()  # in the middle of the first save, most likely
    wait_until(lambda: line.host.vm_state(guest.name) == "shut off", "the second one", timeout=60, report=line.stories)
    line.host.restart_libvirtd()
    said = line.end(process)
    assert said.move["state"] == "moved", f"{said}\n{line.stories()}"
    assert_on_its_new_file(line, guest, target, old)
    assert guest.judge.ledger().boots == boots, "it was booted"


def test_no_room_for_the_memory(long_line: Line, uefi: Guest, old_san: Datastore, ssd: Datastore) -> None:
    """Refused beforehand; and if the room is gone by then, the VM runs on, and the variables follow later."""
    line, guest, directory = long_line, uefi, "/var/lib/libvirt/qemu/save"
    running(line, guest)
    old, target = elsewhere(line, guest, old_san, ssd)
    words = ("move", guest.name, "--to", target.name, "--firmware", "now")
    small = ["mount", "-t", "tmpfs", "-o", "size=16M", "none", directory]
    line.host.run(small)
    refused = line.do(*words)
    line.host.run(["umount", directory])
    assert refused.codes == ["FIRMWARE_NO_ROOM"], str(refused)
    process = line.start(*words, point="saving:sleep=4")
    move = line.wait_unfinished()
    wait_until(
        lambda: line.record(move)["managed_save"]["state"] == "saving",
        "the save",
        timeout=60,
        step=0.05,
        report=line.stories,
    )
    line.host.run(small)
    try:
        said = line.end(process)
        assert said.move["state"] == "waiting", f"{said}\n{line.stories()}"
        assert line.host.vm_state(guest.name) == "running"
        assert nvram_of(guest) == nvram_of(guest, inactive=True) == old
        assert any("do not move now" in one for one in line.story(move)), line.stories()
        assert_whole(guest)
    finally:
        line.host.run(["umount", directory])
    guest.poweroff()
    line.must("vms")
    assert line.wait_finished_of(guest.name)["record"]["outcome"] == "moved"
    assert nvram_of(guest, inactive=True).is_relative_to(target.path)
