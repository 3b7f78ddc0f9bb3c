"""Formats on the way, judged in the guest: out of a VMDK in two files, odd clusters, and disks that are encrypted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import tenacity

from lab import Datastore, Disk
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, allocated, image_info, small_disks

pytestmark = pytest.mark.lab

SECRET = "5f8d9b0e-6a54-4f0c-9c0d-1b7f4b6f2c11"


def test_a_vm_that_runs_from_a_vmdk_in_two_files_moves_live_to_qcow2(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1, "vmdk", options="subformat=monolithicFlat"), start=True)
    one = Voyage(guest, line, stores)
    assert one.where["vda"].with_name("vda-flat.vmdk").exists()
    one.write()
    words = ["--format", "qcow2", "--cluster-size", "128KiB", "--preallocation", "falloc"]
    done = line.must("move", guest.name, "--to", "ssd", *words).move
    path = one.moved("vda", ssd, "qcow2")
    one.assert_well()
    assert one.files(old_san) == set(), "the descriptor and its extents are both gone"
    assert len(done["report"]["sources"]) == 2
    assert image_info(path)["cluster-size"] == 128 << 10
    assert allocated(path) >= guest.disk("vda").size_bytes
    one.power_cycle()


def test_extended_l2_entries_are_carried(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1, options="extended_l2=on,cluster_size=128k"), start=True)
    one = Voyage(guest, line, stores)
    one.write()
    line.must("move", guest.name, "--to", "ssd")
    path = one.moved("vda", ssd)
    one.assert_well()
    found = image_info(path)
    assert found["cluster-size"] == 128 << 10
    assert found["format-specific"]["data"]["extended-l2"]
    one.power_off()


def test_an_encrypted_disk_moves_as_it_is_and_never_decrypted(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """LUKS as libvirt has it: raw in the XML, with a secret that libvirt holds. QEMU opens it before and after."""
    guest = make_guest([Disk("vda", old_san, "raw", size="16MiB")])
    one = Voyage(guest, line, stores)
    old = Path(guest.disk("vda").path)
    secret = ["--object", "secret,id=s,data=geheim"]
    options = ["-o", "key-secret=s,iter-time=10"]
    old.unlink()
    create = ["qemu-img", "create", "-q", "-f", "luks", *secret, *options, str(old), "16M"]
    # On a busy machine QEMU now and then says that it is "Unable to get accurate CPU usage", and makes none.
    for attempt in tenacity.Retrying(stop=tenacity.stop_after_attempt(10), reraise=True):
        with attempt:
            subprocess.run(create, check=True)
    xml = f"<secret ephemeral='yes' private='yes'><uuid>{SECRET}</uuid></secret>"
    guest.host.virsh("secret-define", "/dev/stdin", stdin=xml)
    try:
        guest.host.virsh("secret-set-value", SECRET, "--base64", "Z2VoZWlt")
        luks = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
        config = guest.xml(inactive=True)
        assert f"<source file='{old}'/>" in config
        sealed = config.replace(f"<source file='{old}'/>", f"<source file='{old}'>{luks}</source>")
        guest.host.virsh("define", "/dev/stdin", stdin=sealed)
        guest.start(wait=False)
        for method in ("mirror", "changed-blocks"):
            said = line.do("move", guest.name, "--to", "ssd", "--method", method)
            assert said.status == 4, str(said)
            assert said.codes == ["ENCRYPTED_IMAGE"]
        guest.destroy()
        content = old.read_bytes()
        line.must("move", guest.name, "--to", "ssd")
        new = one.moved("vda", ssd)
        assert new.read_bytes() == content
        one.assert_configured("shut off")
        one.assert_nothing_left()
        assert SECRET in guest.xml(inactive=True)
        guest.start(wait=False)  # QEMU checks the passphrase against the LUKS header before it starts
        assert guest.state() == "running"
        guest.destroy()
    finally:
        guest.host.virsh("secret-undefine", SECRET)
