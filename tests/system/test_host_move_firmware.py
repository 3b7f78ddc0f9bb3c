"""UEFI variables go to another host with their VM: of one that runs, of one that is off, shared, killed, cancelled.

That the variables are the same is judged by a mark in their unused end, which the template does not carry: without it
libvirt at the destination would have made them anew.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host
from lab.process import wait_until
from tests.system.test_host_move import LIMIT_S, Crossing, crossing, line

__all__ = ["crossing", "line"]

pytestmark = pytest.mark.lab

Make = Callable[..., Crossing]
CODE, TEMPLATE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
MARK = b"these are the variables of this guest"
NVRAM = Path("/var/lib/libvirt/qemu/nvram")
TO = ("--to", "kvm2-disks")


def on_host(host: Host, path: Path) -> Path:
    """Where this machine sees a file of the host below /var/lib/libvirt."""
    return host.directory / "lib" / path.relative_to("/var/lib/libvirt")


def marked(tail: bytes = MARK) -> bytes:
    data = bytearray(TEMPLATE.read_bytes())
    data[-len(tail) :] = tail
    return bytes(data)


def uefi(make: Make, store: Datastore, nvram: Path, seen: Path, **options: object) -> Crossing:
    """A guest whose variables are in `nvram`, which this machine sees as `seen`."""
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_bytes(marked())
    os_xml = f"<loader readonly='yes' type='pflash'>{CODE}</loader><nvram template='{TEMPLATE}'>{nvram}</nvram>"
    return make(Disk("vda", store, size="32MiB"), machine="q35", memory="256MiB", extra_os=os_xml, **options)


def in_libvirts_place(make: Make, store: Datastore, far: Host, **options: object) -> tuple[Crossing, Path]:
    path = NVRAM / f"uefi-{secrets.token_hex(4)}_VARS.fd"
    return uefi(make, store, path, on_host(far, path), **options), path


def nvram_of(host: Host, name: str, *options: str) -> Path:
    found = re.search(r"<nvram[^>]*>([^<]*)</nvram>", host.virsh("dumpxml", name, *options))
    assert found is not None
    return Path(found.group(1))


def assert_own(path: Path) -> None:
    """The firmware changes its variables at a start; the mark it leaves alone."""
    assert path.read_bytes().endswith(MARK), f"{path} does not hold the guest's variables"


def assert_no_marker(*paths: Path) -> None:
    for path in paths:
        assert not list(path.glob("*.blockferry")), list(path.iterdir())


def test_of_a_running_vm(crossing: Make, ssd: Datastore, far: Host, kvm2: Host) -> None:
    """They keep their path, in libvirt's own directory of either host; a file there of the same name is left alone."""
    trip, path = in_libvirts_place(crossing, ssd, far)
    trip.write()
    checked = trip.line.do("check", trip.name, "--to-host", "kvm2", *TO).document["check"]
    assert checked["findings"] == [], checked
    assert [file["dest"] for file in checked["plan"]["state_files"]] == [str(path)], checked
    before = on_host(far, path).read_bytes()
    assert before.endswith(MARK)
    report = trip.assert_moved(trip.move(*TO))
    assert nvram_of(kvm2, trip.name) == nvram_of(kvm2, trip.name, "--inactive") == path
    assert on_host(kvm2, path).read_bytes() == before
    assert not on_host(far, path).exists(), report["sources"]
    assert any(str(path) in sentence for sentence in report["verified"]), report
    assert_no_marker(on_host(far, NVRAM), on_host(kvm2, NVRAM))
    trip.assert_alive()
    trip.guest.poweroff()
    trip.guest.start()
    assert_own(on_host(kvm2, path))


def test_a_file_of_that_name_at_the_destination_is_left_alone(
    crossing: Make, ssd: Datastore, far: Host, kvm2: Host
) -> None:
    """And of a VM that is paused and arrives so: the variables are there before its guest has run."""
    trip, path = in_libvirts_place(crossing, ssd, far)
    on_host(kvm2, path).parent.mkdir(parents=True, exist_ok=True)
    on_host(kvm2, path).write_bytes(b"somebody's")
    trip.source.virsh("suspend", trip.name)
    said = trip.move(*TO)
    trip.assert_moved(said, "paused")
    new = path.with_name(f"{path.stem}-2.fd")
    assert nvram_of(kvm2, trip.name) == nvram_of(kvm2, trip.name, "--inactive") == new
    assert_own(on_host(kvm2, new))
    assert on_host(kvm2, path).read_bytes() == b"somebody's"
    assert not on_host(far, path).exists()
    kvm2.virsh("destroy", trip.name)
    assert_own(on_host(kvm2, new))


def test_of_a_vm_that_is_off(crossing: Make, ssd: Datastore, kvm2_disks: Datastore, kvm2: Host) -> None:
    """The other host has no such directory: they go beside its disk. Killed at their steps. Written to after they were
    copied, they are copied again."""
    name = secrets.token_hex(4)
    old = ssd.home(f"home-{name}") / "uefi_VARS.fd"
    trip = uefi(crossing, ssd, old, old, start=False)
    assert trip.move(*TO, point="state-file-named:kill").killed
    assert trip.line.do("resume", trip.name, point="state-file-copied:kill").killed
    assert trip.line.do("resume", trip.name, point="defined:kill").killed
    old.write_bytes(marked(b"these are newer ones of this guest...")[:-1] + b"!")
    newer = old.read_bytes()
    assert trip.line.do("resume", trip.name, point="state-file-proven:kill").killed
    report = trip.assert_moved(trip.line.do("resume", trip.name), "shut off")
    new = nvram_of(kvm2, trip.name, "--inactive")
    assert new.read_bytes() == newer
    assert new.is_relative_to(kvm2_disks.path) or new == old, report
    assert_no_marker(new.parent)
    trip.guest.start()
    assert new.read_bytes().endswith(newer[-len(MARK) :])
    assert not old.exists(), report


@pytest.mark.sampled(0.4)
@pytest.mark.parametrize(
    "point",
    [
        *("state-file-named", "state-file-written", "state-file-copied", "state-file-proven"),
        *("releasing-state-file", "state-file-released"),
    ],
)
def test_killed(crossing: Make, ssd: Datastore, far: Host, kvm2: Host, point: str) -> None:
    trip, path = in_libvirts_place(crossing, ssd, far)
    trip.write()
    assert trip.move(*TO, point=f"{point}:kill").killed
    assert trip.states().count("running") <= 1
    trip.assert_moved(trip.line.do("resume", trip.name))
    assert_own(on_host(kvm2, path))
    assert not on_host(far, path).exists()
    assert_no_marker(on_host(far, NVRAM), on_host(kvm2, NVRAM))


def test_cancelled(crossing: Make, ssd: Datastore, kvm2_disks: Datastore, far: Host, kvm2: Host) -> None:
    """What was made at the destination goes; the VM has its own as before."""
    trip, path = in_libvirts_place(crossing, ssd, far)
    trip.write()
    assert trip.move(*TO, point="state-file-copied:kill").killed
    assert on_host(kvm2, path).exists()
    assert trip.line.must("cancel", trip.name).move["state"] == "cancelled"
    trip.assert_back(kvm2_disks.home(trip.name))
    assert not on_host(kvm2, path).exists()
    assert_no_marker(on_host(kvm2, NVRAM))
    assert_own(on_host(far, path))
    trip.assert_alive()


def test_written_to_after_it_had_gone_they_are_kept(crossing: Make, ssd: Datastore, far: Host, kvm2: Host) -> None:
    """A doubt: whoever wrote there may have had a reason."""
    trip, path = in_libvirts_place(crossing, ssd, far)
    trip.write()
    assert trip.move(*TO, point="alone-noted:kill").killed
    other = marked(b"written by somebody else")
    on_host(far, path).write_bytes(other)
    report = trip.assert_moved(trip.line.do("resume", trip.name))
    assert on_host(far, path).read_bytes() == other
    assert any("kept, because" in sentence and str(path) in sentence for sentence in report["sources"]), report
    assert not any(str(path) in sentence for sentence in report["verified"]), report
    assert_own(on_host(kvm2, path))


def test_those_that_both_hosts_have_stay(crossing: Make, old_san: Datastore, kvm2: Host) -> None:
    path = old_san.path / f"uefi-{secrets.token_hex(4)}_VARS.fd"
    trip = uefi(crossing, old_san, path, path)
    trip.write()
    said = trip.line.do("move", trip.name, "--to-host", "kvm2")
    assert said.move["plan"]["state_files"] == [], said
    trip.assert_moved(said)
    assert nvram_of(kvm2, trip.name) == path
    assert_own(path)
    trip.assert_alive()
    trip.guest.poweroff()
    path.unlink()


def test_firmware_that_libvirt_chooses(crossing: Make, ssd: Datastore, far: Host, kvm2: Host) -> None:
    """With `<os firmware='efi'>` the persistent XML names no file: of a VM that is off, then back while it runs."""
    trip = crossing(Disk("vda", ssd, size="32MiB"), start=False, machine="q35", memory="256MiB")
    xml = far.virsh("dumpxml", trip.name, "--inactive").replace("<os>", "<os firmware='efi'>")
    far.virsh("define", "/dev/stdin", stdin=xml)
    trip.guest.start()
    path = nvram_of(far, trip.name)
    trip.guest.poweroff()
    on_host(far, path).write_bytes(marked())
    trip.assert_moved(trip.move(*TO), "shut off")
    assert_own(on_host(kvm2, path))
    assert not on_host(far, path).exists()
    trip.guest.start()
    trip.write()
    said = trip.line.do("move", trip.name, "--to-host", "kvm1", "--to", "ssd")
    assert said.status == 0, f"{said}\n{trip.line.stories()}"
    assert trip.states() == ("running", "absent")
    trip.guest.host = far
    assert_own(on_host(far, path))
    assert not on_host(kvm2, path).exists()
    trip.assert_alive()


TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"


def tpm_of(host: Host, uuid: str) -> Path:
    return on_host(host, Path("/var/lib/libvirt/swtpm") / uuid)


def uuid_of(trip: Crossing) -> str:
    return trip.guest.host.virsh("domuuid", trip.name).strip()


def states_of(directory: Path) -> dict[str, bytes]:
    """The files of a TPM's state, without swtpm's lock and our marker."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.name: path.read_bytes() for path in found if path.suffix != ".blockferry"}


def test_the_tpm_of_a_running_vm(crossing: Make, ssd: Datastore, far: Host, kvm2: Host) -> None:
    trip, path = in_libvirts_place(crossing, ssd, far, extra_devices=TPM)
    trip.write()
    uuid = uuid_of(trip)
    before = states_of(tpm_of(far, uuid))
    assert before, "the guest has no vTPM: a check that cannot fail"
    report = trip.assert_moved(trip.move(*TO))
    assert states_of(tpm_of(kvm2, uuid)) == before
    assert not tpm_of(far, uuid).exists()
    assert any("TPM" in sentence for sentence in report["verified"]), report
    assert_own(on_host(kvm2, path))
    trip.assert_alive()
    trip.guest.poweroff()
    trip.guest.start()
    assert states_of(tpm_of(kvm2, uuid))


def test_the_tpm_of_a_vm_that_is_off(crossing: Make, ssd: Datastore, far: Host, kvm2: Host) -> None:
    """Killed where its state is copied, and where the definition has gone from the source; then back, kept at kvm2."""
    trip = crossing(Disk("vda", ssd, size="32MiB"), machine="q35", memory="256MiB", extra_devices=TPM)
    trip.guest.poweroff()
    uuid = uuid_of(trip)
    before = states_of(tpm_of(far, uuid))
    assert before, "the guest has no vTPM: a check that cannot fail"
    owners = {path.name: (path.stat().st_mode, path.owner()) for path in tpm_of(far, uuid).rglob("*")}
    assert trip.move(*TO, point="state-file-copied:kill").killed
    assert trip.line.do("resume", trip.name, point="source-undefined:kill").killed
    assert states_of(tpm_of(far, uuid)) == before, "removed with the definition, before it was proven"
    report = trip.assert_moved(trip.line.do("resume", trip.name), "shut off")
    assert states_of(tpm_of(kvm2, uuid)) == before
    for made in tpm_of(kvm2, uuid).rglob("*"):
        assert owners[made.name] == (made.stat().st_mode, made.owner())
    assert not tpm_of(far, uuid).exists(), report
    trip.guest.start()
    trip.guest.poweroff()
    now = states_of(tpm_of(kvm2, uuid))
    said = trip.line.do("move", trip.name, "--to-host", "kvm1", "--to", "ssd", "--keep-source", "7d")
    assert said.status == 0, f"{said}\n{trip.line.stories()}"
    assert states_of(tpm_of(far, uuid)) == states_of(tpm_of(kvm2, uuid)) == now
    trip.guest.host = far
    refused = trip.move(*TO)
    assert refused.codes == ["TPM_TAKEN"], refused


def test_a_tpm_is_at_the_source_as_before_when_the_move_is_cancelled(
    crossing: Make, ssd: Datastore, kvm2_disks: Datastore, far: Host, kvm2: Host
) -> None:
    """In the middle of the migration of a VM that runs, and with its state copied of one that is off."""
    disk = Disk("vda", ssd, size="256MiB", fill="128MiB")
    trip = crossing(disk, machine="q35", memory="256MiB", extra_devices=TPM)
    trip.write()
    uuid = uuid_of(trip)
    before = states_of(tpm_of(far, uuid))
    process = trip.line.start("move", trip.name, "--to-host", "kvm2", *TO, "--bandwidth", "8MiB/s")
    begun = trip.line.stories
    wait_until(lambda: trip.states()[1] == "paused", "the beginning", timeout=LIMIT_S, step=0.1, report=begun)
    assert trip.line.must("cancel", trip.name).move["state"] == "cancelled"
    assert trip.line.end(process).code == "MOVE_CANCELLED", trip.line.stories()
    trip.assert_back(kvm2_disks.home(trip.name))
    assert states_of(tpm_of(far, uuid)) == before
    assert not states_of(tpm_of(kvm2, uuid)), "the next move would be refused"
    trip.assert_alive()
    trip.guest.poweroff()
    before = states_of(tpm_of(far, uuid))
    assert trip.move(*TO, point="state-file-copied:kill").killed
    assert states_of(tpm_of(kvm2, uuid)) == before
    assert trip.line.must("cancel", trip.name).move["state"] == "cancelled"
    assert states_of(tpm_of(far, uuid)) == before
    assert not tpm_of(kvm2, uuid).exists()
