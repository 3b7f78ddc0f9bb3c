"""The words that are given to virsh on a host are words of the virsh that is installed here."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from blockferry.hosts.helper.holding import HeldVm, Holding
from blockferry.hosts.helper.program import holder_calls
from blockferry.hosts.libvirt.migration import Migration, MigrationOrder
from blockferry.hosts.runner import LocalRunner

URI = "test:///default"


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def virsh(lock: int, *words: str, **texts: str) -> str:
    done = holder_calls.ran_virsh(lock, URI, list(words), texts)
    assert done["status"] == 0, done["words"]
    return holder_calls.text_of(done).strip()


def test_a_vm_of_libvirts_test_driver(lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver forgets all between two commands: what counts is that each command is understood and carried out."""
    uuid = virsh(lock, "list", "--all", "--persistent", "--uuid")
    asked: list[list[str]] = []

    class Asked(Holding):
        def asked(self, runner: Any, do: str, words: Any, point: str = "") -> Any:
            if do == "undefine":
                command = ["undefine", *words["words"], uuid]
                return holder_calls.ran_virsh(lock, URI, command, {})
            asked.append(words["words"])
            return holder_calls.ran_virsh(lock, URI, words["words"], words["texts"])

    vm = HeldVm(cast(LocalRunner, None), Asked("m1", 1, lambda: None, lambda _: None), URI, uuid, "test")
    vm.define(virsh(lock, "dumpxml", "--inactive", "--security-info", uuid))
    vm.mark("urn:blockferry:move:1", "blockferry", "<move id='m1' journal='j'/>", live=True, config=True)
    vm.mark("urn:blockferry:move:1", "", None, live=True, config=True)
    vm.autostart(wanted=True)
    vm.autostart(wanted=False)
    vm.undefine()
    vm.end()
    assert [words[0] for words in asked] == ["define", "metadata", "metadata", "autostart", "autostart", "destroy"]


def options(command: str) -> set[str]:
    told = subprocess.run(["virsh", "help", command], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z0-9-]+", told))


def test_every_option_of_overlays_and_commits_is_known() -> None:
    """libvirt's test driver has no block jobs. That they are carried out: tests/system/test_storage_first.py."""
    asked: list[list[str]] = []

    class Asked(Holding):
        def asked(self, runner: Any, do: str, words: Any, point: str = "") -> Any:
            asked.append(words["words"])
            return {"status": 0, "out": "", "words": ""}

    vm = HeldVm(cast(LocalRunner, None), Asked("m1", 1, lambda: None, lambda _: None), URI, "uuid", "test")
    vm.put_overlays("<domainsnapshot/>")
    vm.start_commit("vda")
    vm.pivot("vda")
    assert [words[0] for words in asked] == ["snapshot-create", "blockcommit", "blockjob"]
    for command, *words in asked:
        assert {word for word in words if word.startswith("--")} <= options(command)


@pytest.mark.parametrize("only_top", [False, True])
def test_every_option_of_a_migration_is_known(*, only_top: bool) -> None:
    order = MigrationOrder(
        "qemu+ssh://kvm2/system", "kvm2", {"vda": ("/a", "raw"), "vdb": ("/b", "raw")}, 8 << 20,
        proven_shared=True, auto_converge=True, channels=4, compression="xbzrle", tls=True, tls_name="kvm2",
        only_top=only_top,
    )  # fmt: skip
    migration = Migration(cast(Any, None), "uuid", "web01", order, lambda _words, _texts: None)
    words = migration._words({"live": "", "persistent": ""})
    assert {word for word in words if word.startswith("--")} <= options("migrate")
    assert ("--copy-storage-inc" if only_top else "--copy-storage-all") in words
    assert words[-3:] == ["uuid", "qemu+ssh://kvm2/system", "tcp://kvm2"]
    assert "vda,vdb" in words
    assert "--suspend" in words, "VIR_MIGRATE_PAUSED"
