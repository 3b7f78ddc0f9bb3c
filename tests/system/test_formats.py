"""Formats on the way, judged in the guest: out of a VMDK in two files, odd clusters, and disks that are encrypted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tenacity

from lab import Datastore, Disk, Guest, Host
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, allocated, image_info, small_disks

pytestmark = pytest.mark.lab

SECRET = "5f8d9b0e-6a54-4f0c-9c0d-1b7f4b6f2c11"


def test_a_vm_that_runs_from_a_vmdk_in_two_files_moves_live_to_qcow2(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1, "vmdk", options="subformat=monolithicFlat"), start=True)
    voyage = Voyage(guest, line, stores)
    assert voyage.where["vda"].with_name("vda-flat.vmdk").exists()
    voyage.write()
    words = ["--format", "qcow2", "--cluster-size", "128KiB", "--preallocation", "falloc"]
    done = line.must("move", guest.name, "--to", "ssd", *words).move
    path = voyage.moved("vda", ssd, "qcow2")
    voyage.assert_well()
    assert voyage.files(old_san) == set(), "the descriptor and its extents are both gone"
    assert len(done["report"]["sources"]) == 2
    assert image_info(path)["cluster-size"] == 128 << 10
    assert allocated(path) >= guest.disk("vda").size_bytes
    voyage.power_cycle()


def test_extended_l2_entries_are_carried(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1, options="extended_l2=on,cluster_size=128k"), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    line.must("move", guest.name, "--to", "ssd")
    path = voyage.moved("vda", ssd)
    voyage.assert_well()
    found = image_info(path)
    assert found["cluster-size"] == 128 << 10
    assert found["format-specific"]["data"]["extended-l2"]
    voyage.power_off()


@pytest.mark.parametrize(("raw", "method"), [("off", "mirror"), ("on", "changed-blocks"), ("on", "cold")])
def test_a_data_file_goes_into_the_new_image_and_then_away(
    make_guest: MakeGuest,
    line: Line,
    stores: tuple[Datastore, ...],
    ssd: Datastore,
    old_san: Datastore,
    vm_name: Callable[[], str],
    raw: str,
    method: str,
) -> None:
    """Half of the killed moves die between the release of the image and that of its data file."""
    name = vm_name()
    data = old_san.home(name) / "vda.data"
    data.parent.mkdir()
    options = f"data_file={data},data_file_raw={raw}"
    guest = make_guest(small_disks(old_san, 1, options=options), name=name, start=True)
    voyage = Voyage(guest, line, stores)
    assert allocated(data) > 16 << 20, "the data file is where the data is"
    voyage.write()
    if method == "cold":
        voyage.power_off()
    said = line.do("move", name, "--to", "ssd", "--method", method, point="source-released:kill")
    assert said.status in (-9, 137), str(said)
    assert data.exists()
    [move] = line.unfinished()
    line.must("resume", move)
    path = voyage.moved("vda", ssd)
    assert "data-file" not in image_info(path)["format-specific"]["data"]
    assert voyage.files(old_san) == set(), "the image and its data file are both gone"
    if method == "cold":
        voyage.assert_images()
        guest.start()
        voyage.write()
    voyage.assert_well()
    voyage.power_off()


@pytest.fixture
def secret(lab_host: Host) -> Iterator[str]:
    """A `<encryption>` whose secret libvirt holds, also after the host has been off."""
    xml = f"<secret ephemeral='no' private='yes'><uuid>{SECRET}</uuid></secret>"
    lab_host.virsh("secret-define", "/dev/stdin", stdin=xml)
    lab_host.virsh("secret-set-value", SECRET, "--base64", "Z2VoZWlt")
    yield f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
    lab_host.virsh("secret-undefine", SECRET)


PASSPHRASE = ["--object", "secret,id=s,data=geheim"]


def convert(*words: str | Path) -> None:
    """On a busy machine QEMU now and then says that it is "Unable to get accurate CPU usage", and makes no LUKS."""
    for attempt in tenacity.Retrying(stop=tenacity.stop_after_attempt(10), reraise=True):
        with attempt:
            subprocess.run(["qemu-img", "convert", *PASSPHRASE, *map(str, words)], check=True)


def encrypt(guest: Guest, target: str, encryption: str) -> Path:
    """Give a disk of a guest that is off the same content as LUKS, and its configuration the secret."""
    path, kind = Path(guest.disk(target).path), guest.disk(target).format
    fresh, words = path.with_suffix(".new"), ["-O", "luks", "-o", "key-secret=s,iter-time=10"]
    if kind == "qcow2":
        words = ["-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    convert("-f", kind, *words, path, fresh)
    fresh.replace(path)
    config = guest.xml(inactive=True)
    assert f"<source file='{path}'/>" in config
    changed = config.replace(f"<source file='{path}'/>", f"<source file='{path}'>{encryption}</source>")
    guest.host.virsh("define", "/dev/stdin", stdin=changed)
    return path


def judge_sealed(voyage: Voyage, target: str, path: Path) -> None:
    """The second opinion on a LUKS image of a guest that is off, decrypted for it."""
    plain = path.with_name("plain")
    convert("--image-opts", f"driver=luks,key-secret=s,file.filename={path}", "-O", "raw", plain)
    verdict = voyage.guest.judge.check_image(target, plain, "raw")
    plain.unlink()
    assert verdict.ok, str(verdict)


def test_an_encrypted_disk_moves_and_never_decrypted(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore, secret: str
) -> None:
    """LUKS as libvirt has it: raw in the XML, with a secret that libvirt holds. To and fro, then off, then killed."""
    disks = [Disk("vda", old_san, "raw", size="32MiB", fill="8MiB"), Disk("vdb", old_san, size="16MiB", fill="4MiB")]
    guest = make_guest(disks)
    host, voyage = guest.host, Voyage(guest, line, stores)
    path = encrypt(guest, "vda", secret)
    encrypt(guest, "vdb", secret)
    header = path.read_bytes()[: 64 << 10]
    assert header.startswith(b"LUKS")
    guest.start()
    voyage.write()
    said = line.do("move", guest.name, "--to", "ssd")
    assert said.status == 4, str(said)
    assert said.codes == ["ENCRYPTED_IMAGE"], "LUKS inside of a qcow2 has to wait until the VM is off"
    for store, method in ((ssd, "mirror"), (old_san, "changed-blocks")):
        line.must("move", guest.name, "--disk", f"vda={store.name}", "--method", method)
        path = voyage.moved("vda", store)
        assert path.read_bytes().startswith(header)
        assert guest.xml().count(SECRET) == guest.xml(inactive=True).count(SECRET) == 2
        voyage.assert_well(old_home=ssd.home(guest.name))
    for point, word in (("copy-started", "cancel"), ("pivoted", "resume")):
        said = line.do("move", guest.name, "--disk", "vda=ssd", point=f"{point}:kill")
        assert said.status in (-9, 137), str(said)
        line.do(word, line.unfinished()[0])
        if word == "resume":
            path = voyage.moved("vda", ssd)
        voyage.assert_well(old_home=ssd.home(guest.name))
    guest.judge.stop()
    guest.poweroff()
    judge_sealed(voyage, "vda", path)
    content = path.read_bytes()
    line.must("move", guest.name, "--to", "old-san")  # both, as they are
    path = voyage.moved("vda", old_san)
    voyage.moved("vdb", old_san)
    assert path.read_bytes() == content
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    host.power_loss()
    host.boot()
    guest.start()  # QEMU checks the passphrase against the LUKS header before it starts
    voyage.write()
    voyage.assert_content()
    guest.judge.stop()
    guest.poweroff()
    judge_sealed(voyage, "vda", path)
