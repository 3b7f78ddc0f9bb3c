"""The zoo's judge: content with a move that was done well, and for each invariant a move that breaks it is found.

The moves here are done by hand, with qemu-img and real files; nothing of blockferry and no libvirt.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.process import run
from lab.said import Said
from zoo import domains, facts, files, judge, xmlcompare
from zoo.facts import Facts, PoolFacts, VmFacts
from zoo.judge import Case
from zoo.spec import Disk, Edit, File, Host, Move, Named, Pool, Vm

pytestmark = pytest.mark.slow

HOME, NEW = "a/old/web01", "b/new/web01"

HOST = Host(
    pools=(Pool("old", "a/old"), Pool("new", "b/new")),
    files=(
        File("a/old/tmpl.qcow2", "qcow2", 1, 1024),
        File(f"{HOME}/vda.qcow2", "qcow2", 2, 1024, backing="a/old/tmpl.qcow2"),
        File(f"{HOME}/vdb.raw", "raw", 3, 1024, mode=0o640),
        File(f"{HOME}/vmlinuz", "kernel", 4),
        File(f"{HOME}/notes.txt", "text", 5),
        File(f"{HOME}/nobody.qcow2", "qcow2", 6, 1024),
        File("a/old/other.raw", "raw", 7, 1024),
        File("a/old/link.raw", "link", target="a/old/other.raw"),
    ),
    vms=(
        Vm(
            "web01",
            "off",
            (Disk("vda", "virtio", f"{HOME}/vda.qcow2"), Disk("vdb", "virtio", f"{HOME}/vdb.raw", format="raw")),
            (Named("kernel", f"{HOME}/vmlinuz"),),
            home=HOME,
        ),
        Vm("template", "off", (Disk("vda", "virtio", "a/old/tmpl.qcow2", form="volume", pool="old"),)),
    ),
    move=Move("web01", "new"),
)


STATES = {"web01": "shut off", "template": "shut off"}


class Scene:
    """A host in a directory, before and after."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for store in ("a", "b"):
            (directory / store).mkdir()
        (directory / "model").mkdir()
        self.model = files.Model(directory / "model")
        formats: dict[str, str] = {}
        for file in HOST.files:
            files.make(file, self.real, self.model, formats)
        self.real("b/new").mkdir()
        for vm in HOST.vms:
            for disk in vm.disks:
                self.model.disks[vm.name, disk.target] = self.model.new(self.model.images[disk.place])
        self.pools = {pool.name: PoolFacts(pool.name, str(self.real(pool.place)), True, True) for pool in HOST.pools}
        self.states = {vm.name: "shut off" for vm in HOST.vms}
        self.xml = {vm.name: domains.domain_xml(vm, self.real, {}) for vm in HOST.vms}
        self.before = self.look()
        self.said = Said(("move",), 0, "", "")
        self.end = "moved"
        self.host = HOST
        self.edited = False

    def real(self, place: str) -> Path:
        return self.directory / place

    def look(self) -> Facts:
        tree = facts.tree([self.real("a"), self.real("b")])
        vms = {name: VmFacts(name, self.states[name], text, None) for name, text in self.xml.items()}
        return Facts(tree, vms, dict(self.pools))

    def move(self) -> None:
        """Move web01 as it should be: flattened, with kernel and notes; what is not its own stays."""
        old, new = self.real(HOME), self.real(NEW)
        new.mkdir()
        run(["qemu-img", "convert", "-O", "qcow2", old / "vda.qcow2", new / "vda.qcow2"])
        for name in ("vdb.raw", "vmlinuz", "notes.txt"):
            shutil.copy2(old / name, new / name)
        for name in ("vda.qcow2", "vdb.raw", "vmlinuz", "notes.txt"):
            (old / name).unlink()
        (new / "web01.xml").write_text(self.xml["web01"])
        self.xml["web01"] = self.xml["web01"].replace(str(old), str(new))

    def say(self, *sentences: str) -> None:
        report = {"kind": "report", "move": {"report": {"sources": sentences}}}
        self.said = replace(self.said, out=json.dumps(report))

    def case(self) -> Case:
        return Case(
            self.host, self.host.move, self.real, self.model, self.before, self.look(), STATES,
            self.end, self.said, edited=self.edited,
        )  # fmt: skip

    def judge(self) -> set[str]:
        self.findings = judge.judge(self.case())
        return {finding.kind for finding in self.findings}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_move_done_well_is_right(scene: Scene) -> None:
    scene.move()
    scene.say(f"{scene.real(HOME)}/vdb.raw (1 MiB): removed; nothing used it any more")
    assert scene.judge() == set(), scene.findings


def test_a_move_that_leaves_the_notes_is_right_too(scene: Scene) -> None:
    scene.move()
    shutil.move(scene.real(f"{NEW}/notes.txt"), scene.real(f"{HOME}/notes.txt"))
    assert scene.judge() == set(), scene.findings


def test_a_move_that_takes_the_notes_in_their_newest_form_is_right(scene: Scene) -> None:
    scene.host = replace(HOST, move=replace(HOST.move, edits=(Edit("copying", "append", f"{HOME}/notes.txt"),)))
    scene.edited = True
    scene.move()
    notes = scene.real(f"{NEW}/notes.txt")
    notes.write_text(notes.read_text() + "the newest line\n")
    scene.model.plain[f"{HOME}/notes.txt"] = files.digest(notes)
    assert scene.judge() == set(), scene.findings


def test_a_refusal_that_touched_nothing_is_right(scene: Scene) -> None:
    scene.end = "refused"
    assert scene.judge() == set(), scene.findings


@pytest.mark.parametrize(("edited", "kinds"), [(True, set()), (False, {"owner"})])
def test_a_medium_that_was_put_in_meanwhile_may_become_qemus(scene: Scene, edited: bool, kinds: set[str]) -> None:
    """Seed 20261129, host 101: libvirt gives the new medium of a running VM to QEMU's user."""
    place = "a/old/other.raw"
    drive = f"<disk type='file' device='cdrom'><source file='{scene.real(place)}'/><target dev='sdz'/></disk>"
    scene.xml["web01"] = scene.xml["web01"].replace("</devices>", f"{drive}</devices>")
    scene.before = scene.look()
    scene.host = replace(HOST, move=replace(HOST.move, edits=(Edit("marked", "change-cd", place, "sdz"),)))
    scene.edited = edited
    scene.move()
    scene.real(place).chmod(0o666)
    assert scene.judge() == kinds, scene.findings


@pytest.mark.parametrize(("edited", "kinds"), [(True, set()), (False, {"pools"})])
def test_a_pool_may_become_active_when_libvirtd_is_started_again(scene: Scene, edited: bool, kinds: set[str]) -> None:
    """Seed 20261129, host 88."""
    scene.pools["sleeping"] = PoolFacts("sleeping", str(scene.real("a/old")), active=False, autostart=False)
    scene.before = scene.look()
    scene.host = replace(HOST, move=replace(HOST.move, edits=(Edit("copying", "kill-libvirtd"),)))
    scene.edited = edited
    scene.move()
    scene.pools["sleeping"] = replace(scene.pools["sleeping"], active=True)
    assert scene.judge() == kinds, scene.findings


def test_a_cancelled_move_that_left_nothing_is_right(scene: Scene) -> None:
    scene.host = replace(HOST, move=replace(HOST.move, cancel_at="copying"))
    scene.end = "cancelled"
    assert scene.judge() == set(), scene.findings


Sabotage = Callable[[Scene], None]


def _stale_notes(scene: Scene) -> None:
    scene.model.plain[f"{HOME}/notes.txt"] = "of something newer"


def _lost_write(scene: Scene) -> None:
    files.qemu_io(scene.real(f"{NEW}/vda.qcow2"), "qcow2", [(files.BLOCK * 3, 99)])


def _new_image_gone(scene: Scene) -> None:
    scene.real(f"{NEW}/vdb.raw").unlink()


def _template_gone(scene: Scene) -> None:
    scene.real("a/old/tmpl.qcow2").unlink()


def _template_changed(scene: Scene) -> None:
    files.qemu_io(scene.real("a/old/tmpl.qcow2"), "qcow2", [(0, 98)])


def _strangers_image_moved(scene: Scene) -> None:
    shutil.move(scene.real(f"{HOME}/nobody.qcow2"), scene.real(f"{NEW}/nobody.qcow2"))


def _kernel_not_renamed(scene: Scene) -> None:
    scene.xml["web01"] = scene.xml["web01"].replace(f"{scene.real(NEW)}/vmlinuz", f"{scene.real(HOME)}/vmlinuz")


def _other_kernel(scene: Scene) -> None:
    scene.real(f"{NEW}/vmlinuz").write_text("another kernel")


def _wrong_mode(scene: Scene) -> None:
    scene.real(f"{NEW}/vdb.raw").chmod(0o600)


def _wrong_mode_of_the_home(scene: Scene) -> None:
    scene.real(NEW).chmod(0o711)


def _marker(scene: Scene) -> None:
    scene.real(f"{NEW}/vda.qcow2.blockferry").touch()


def _option_lost(scene: Scene) -> None:
    scene.xml["web01"] = scene.xml["web01"].replace("<acpi/>", "")


def _others_xml(scene: Scene) -> None:
    scene.xml["template"] = scene.xml["template"].replace("32</memory>", "64</memory>")


def _undefined(scene: Scene) -> None:
    del scene.xml["template"]


def _metadata(scene: Scene) -> None:
    scene.xml["web01"] = scene.xml["web01"].replace("<features>", "<metadata/><features>")


def _started(scene: Scene) -> None:
    scene.states["template"] = "running"


def _pool_stopped(scene: Scene) -> None:
    scene.pools["old"] = replace(scene.pools["old"], active=False)


def _said_kept(scene: Scene) -> None:
    scene.say(f"{scene.real(HOME)}/vdb.raw (1 MiB): kept; --keep-source")


def _said_removed(scene: Scene) -> None:
    scene.say(f"{scene.real('a/old')}/tmpl.qcow2 (1 MiB): removed; nothing used it any more")


def _said_removed_a_link(scene: Scene) -> None:
    scene.say(f"{scene.real('a/old')}/link.raw (1 MiB): removed; nothing used it any more")


def _one_disk_stayed(scene: Scene) -> None:
    shutil.move(scene.real(f"{NEW}/vdb.raw"), scene.real(f"{HOME}/vdb.raw"))
    scene.xml["web01"] = scene.xml["web01"].replace(f"{scene.real(NEW)}/vdb.raw", f"{scene.real(HOME)}/vdb.raw")


def _parked(scene: Scene) -> None:
    scene.end = "parked"


BREAKS: tuple[tuple[Sabotage, str], ...] = (
    (_parked, "end"), (_stale_notes, "others"), (_lost_write, "content"), (_new_image_gone, "vanished"),
    (_template_gone, "others"), (_template_gone, "vanished"), (_template_changed, "others"),
    (_template_changed, "content"), (_strangers_image_moved, "others"), (_kernel_not_renamed, "vanished"),
    (_other_kernel, "content"), (_wrong_mode, "owner"),
    (_wrong_mode_of_the_home, "owner"), (_marker, "leftover"), (_option_lost, "xml"),
    (_others_xml, "xml"), (_undefined, "xml"), (_metadata, "mark"), (_started, "state"), (_pool_stopped, "pools"),
    (_said_kept, "report"), (_said_removed, "report"), (_said_removed_a_link, "report"),
    (_one_disk_stayed, "destination"),
)  # fmt: skip


@pytest.mark.parametrize(("sabotage", "kind"), BREAKS, ids=lambda one: getattr(one, "__name__", one))
def test_each_invariant_can_fail(scene: Scene, sabotage: Sabotage, kind: str) -> None:
    scene.move()
    sabotage(scene)
    assert kind in scene.judge(), scene.findings


def test_what_never_lay_in_a_datastore_need_not_be_there(scene: Scene) -> None:
    """Seed 118526159, host 98: the socket of an external TPM that nobody serves."""
    tpm = domains.TPMS["external"]
    scene.xml["web01"] = scene.xml["web01"].replace("</devices>", f"{tpm}</devices>")
    scene.before = scene.look()
    scene.move()
    assert scene.judge() == set(), scene.findings


def test_a_file_that_is_gone_without_a_successor_is_found(scene: Scene) -> None:
    """The kernel's name is given up and the file with it: no XML names it any more, so only the file tells."""
    scene.move()
    kernel = f"<kernel>{scene.real(NEW)}/vmlinuz</kernel>"
    assert kernel in scene.xml["web01"]
    scene.xml["web01"] = scene.xml["web01"].replace(kernel, "")
    scene.real(f"{NEW}/vmlinuz").unlink()
    assert "taken" in scene.judge(), scene.findings


@pytest.mark.parametrize(
    "touch",
    [
        lambda scene: (scene.real("b/new") / "trace").touch(),
        lambda scene: scene.real(f"{HOME}/vdb.raw").touch(),
        lambda scene: scene.real(f"{HOME}/notes.txt").unlink(),
        lambda scene: scene.real(f"{HOME}/notes.txt").chmod(0o600),
        lambda scene: scene.xml.update(web01=scene.xml["web01"].replace("<acpi/>", "")),
    ],
)
def test_a_refusal_that_touched_something_is_found(scene: Scene, touch: Sabotage) -> None:
    scene.end = "refused"
    touch(scene)
    assert "refusal" in scene.judge(), scene.findings


def test_a_cancelled_move_that_has_moved_is_found(scene: Scene) -> None:
    scene.host = replace(HOST, move=replace(HOST.move, cancel_at="copying"))
    scene.move()
    scene.end = "cancelled"
    assert "destination" in scene.judge(), scene.findings


def test_every_kind_of_finding_is_shown() -> None:
    """Some need a running libvirt: tests/system/test_zoo.py."""
    with_libvirt = {"start", "expected", "lab", "orphans", "bitmaps", "tpm"}
    assert {kind for _, kind in BREAKS} | {"taken", "refusal"} | with_libvirt == set(judge.KINDS)


def test_the_way_back_begins_with_the_layers_that_were_copied(scene: Scene) -> None:
    """`--chain copy`: the template's copy lies at the destination, the template itself stays for the others."""
    old, new = scene.real(HOME), scene.real(NEW)
    new.mkdir()
    shutil.copy2(scene.real("a/old/tmpl.qcow2"), scene.real("b/new/tmpl.qcow2"))
    shutil.move(old / "vda.qcow2", new / "vda.qcow2")
    run(["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "../tmpl.qcow2", new / "vda.qcow2"])
    for name in ("vdb.raw", "vmlinuz"):
        shutil.move(old / name, new / name)
    scene.xml["web01"] = scene.xml["web01"].replace(str(old), str(new))
    case = scene.case()
    now = judge.relocated(case, lambda path: str(Path(path).relative_to(scene.directory)))
    files_now = {file.place: file for file in now.files}
    assert now.mover.disks[0].place == f"{NEW}/vda.qcow2"
    assert now.mover.home == NEW
    assert files_now[f"{NEW}/vda.qcow2"].backing == "b/new/tmpl.qcow2"
    assert files_now["b/new/tmpl.qcow2"].kind == "qcow2"
    assert not files_now["b/new/tmpl.qcow2"].backing
    assert not files_now[f"{NEW}/vdb.raw"].backing
    assert "a/old/tmpl.qcow2" in files_now


def test_the_way_back_of_a_flattened_disk_has_no_layers(scene: Scene) -> None:
    scene.move()
    now = judge.relocated(scene.case(), lambda path: str(Path(path).relative_to(scene.directory)))
    assert not now.file(f"{NEW}/vda.qcow2").backing
    assert now.file(f"{NEW}/vdb.raw").kind == "raw"


@pytest.mark.parametrize("backing_as", ["relative", "absolute"])
def test_an_image_behind_a_link_stands_on_a_base_beside_the_link(tmp_path: Path, backing_as: str) -> None:
    """Seed 118526159, host 42: QEMU takes a relative backing file to be beside the name it was given."""
    (tmp_path / "model").mkdir()
    for directory in ("pool/deep", "side/real"):
        (tmp_path / directory).mkdir(parents=True)
    model = files.Model(tmp_path / "model")
    formats: dict[str, str] = {}
    link = File("pool/deep/vda.qcow2", "link", target="side/real/vda.qcow2")
    base = File("pool/base.qcow2", "qcow2", 1, 1024)
    top = File("side/real/vda.qcow2", "qcow2", 2, 1024, backing=base.place, backing_as=backing_as)
    for file, named_as in ((link, ""), (base, ""), (top, link.place)):
        files.make(file, tmp_path.joinpath, model, formats, named_as=named_as)
    by_link = tmp_path / link.place
    assert files.same_content(model.images[top.place], by_link, "qcow2") is None
    assert [path.resolve() for path in files.chain(by_link)] == [tmp_path / top.place, tmp_path / base.place]


def test_a_volume_may_become_the_file_that_it_is() -> None:
    pools = {"p": PoolFacts("p", "/srv/p", True, True)}
    old = "<disk type='volume'><source pool='p' volume='x'/><target dev='vda'/></disk>"
    new = "<disk type='file'><source file='/srv/q/x'/><target dev='vda'/></disk>"
    compared = xmlcompare.compare(old, new, pools, paths_may_differ=True)
    assert compared.pairs == {"/srv/p/x": "/srv/q/x"}
    assert not compared.differences
    assert xmlcompare.compare(old, new, pools, paths_may_differ=False).differences


def test_a_seclabel_that_is_lost_is_a_difference() -> None:
    label = "<seclabel model='dac' relabel='no'/>"
    old = f"<domain><devices><disk><source file='/a'>{label}</source><target dev='vda'/></disk></devices></domain>"
    compared = xmlcompare.compare(old, old.replace(label, ""), {}, paths_may_differ=True)
    assert compared.differences == ["/domain/devices/disk[vda]/source/seclabel is gone"]
