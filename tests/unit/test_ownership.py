"""Who owns what a move makes: reading it, giving it, and what another user can reach."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from blockferry.hosts.helper import ownership
from blockferry.hosts.helper.program import owner_calls, path_calls
from blockferry.hosts.helper.program.owner_calls import boot_time, facts
from blockferry.hosts.qemu_user import QemuUser
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move.precheck import vm_checks

R = LocalRunner()
NOBODY = QemuUser(65534, 65534)
NOTE = "trusted.libvirt.security."
root = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")


def file(path: Path, uid: int = 0, gid: int = 0, mode: int = 0o640) -> Path:
    path.write_bytes(b"image")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def owner(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def note(path: Path, dac: str, count: int, timestamp: int) -> None:
    """As libvirt notes an owner before it changes it."""
    values = {"dac": dac, "ref_dac": str(count), "timestamp_dac": str(timestamp)}
    try:
        for name, value in values.items():
            os.setxattr(path, NOTE + name, value.encode())
    except OSError:
        pytest.skip("the file system has no trusted attributes")


@root
@pytest.mark.parametrize(
    ("count", "age_s", "wanted"),
    [(1, 0, (1000, 100)), (2, -60, (1000, 100)), (0, 0, (64, 65)), (1, 100_000, (64, 65))],
    ids=["noted", "used twice", "not in use", "of an earlier boot"],
)
def test_what_libvirt_has_noted_counts(tmp_path: Path, count: int, age_s: int, wanted: tuple[int, int]) -> None:
    source, dest = file(tmp_path / "old", 64, 65, 0o604), file(tmp_path / "new")
    note(source, "+1000:+100", count, boot_time() - age_s)
    assert facts(str(source))[:2] == wanted
    assert ownership.like(R, str(source), str(dest)) == ()
    assert owner(dest) == (*wanted, 0o604)
    assert not [name for name in os.listxattr(dest) if name.startswith("trusted.")]


@root
def test_a_directory_keeps_its_special_bits_and_an_image_has_none(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    os.chown(old, 1000, 100)
    old.chmod(0o2775)
    ownership.like(R, str(old), str(new))
    assert owner(new) == (1000, 100, 0o2775)
    image = file(tmp_path / "image", 1000, 100, 0o6755)
    made = file(tmp_path / "made")
    ownership.like(R, str(image), str(made))
    assert owner(made) == (1000, 100, 0o755)
    ownership.give(R, str(new), 7, 8, 0o750)
    assert owner(new) == (7, 8, 0o750)


class Labels:
    """Extended attributes on paper: what a host without SELinux cannot hold. `refused`: errno of each change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[str, dict[str, bytes]] = {}
        self.refused = 0
        monkeypatch.setattr(os, "listxattr", lambda path: list(self.of.get(str(path), ())))
        monkeypatch.setattr(os, "getxattr", self._get)
        monkeypatch.setattr(os, "setxattr", self._set)

    def _get(self, path: object, name: str) -> bytes:
        if name not in self.of.get(str(path), ()):
            raise OSError(errno.ENODATA, "no such attribute")
        return self.of[str(path)][name]

    def _set(self, path: object, name: str, value: bytes) -> None:
        if self.refused:
            raise OSError(self.refused, os.strerror(self.refused))
        self.of.setdefault(str(path), {})[name] = value


IMAGE_LABEL = b"system_u:object_r:virt_image_t:s0\0"
IN_USE = b"system_u:object_r:svirt_image_t:s0:c107,c434\0"
OF_DIRECTORY = b"unconfined_u:object_r:user_home_t:s0\0"


@pytest.mark.parametrize("kind", ["image", "home"])
def test_the_selinux_label_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Else QEMU may not open it where libvirt does not relabel, and the copy has the label of its new directory."""
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.mkdir() if kind == "home" else file(path, os.getuid(), os.getgid())
    labels = Labels(monkeypatch)
    labels.of = {str(old): {"security.selinux": IMAGE_LABEL}, str(new): {"security.selinux": OF_DIRECTORY}}
    assert owner_calls.like(str(old), str(new)) == []
    assert labels.of[str(new)] == {"security.selinux": IMAGE_LABEL}


@pytest.mark.parametrize(
    ("count", "age_s", "wanted"),
    [(1, 0, IMAGE_LABEL), (0, 0, IN_USE), (1, 100_000, IN_USE)],
    ids=["noted", "not in use", "of an earlier boot"],
)
def test_the_selinux_label_from_before_the_vm_ran_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, age_s: int, wanted: bytes
) -> None:
    """A running VM's image has the label of that VM's categories, which is another one at its next start."""
    old, new = (file(tmp_path / name, os.getuid(), os.getgid()) for name in ("old", "new"))
    labels = Labels(monkeypatch)
    noted = {"selinux": IMAGE_LABEL, "ref_selinux": b"%d" % count, "timestamp_selinux": b"%d" % (boot_time() - age_s)}
    labels.of[str(old)] = {"security.selinux": IN_USE, **{NOTE + name: value for name, value in noted.items()}}
    assert owner_calls.like(str(old), str(new)) == []
    assert labels.of[str(new)] == {"security.selinux": wanted}, "libvirt's notes stay libvirt's"


def test_a_label_that_cannot_be_given_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without labels (NFS of an older version): the move says so, `OWNER_LOST` beforehand."""
    old, new = (file(tmp_path / name, os.getuid(), os.getgid()) for name in ("old", "new"))
    labels = Labels(monkeypatch)
    labels.of[str(old)] = {"security.selinux": IMAGE_LABEL}
    labels.refused = errno.EOPNOTSUPP
    assert owner_calls.like(str(old), str(new)) == [("security.selinux", errno.EOPNOTSUPP)]
    assert owner_calls.hold(str(tmp_path), str(old)) == [("security.selinux", errno.EOPNOTSUPP)]


def test_a_device_s_label_is_no_file_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Labels(monkeypatch)
    labels.of["/dev/null"] = {"security.selinux": b"system_u:object_r:fixed_disk_device_t:s0\0"}
    assert owner_calls.facts("/dev/null")[3] == {}


@root
def test_reach_is_tried_as_that_user(tmp_path: Path) -> None:
    tmp_path.parent.chmod(0o755)
    for parent in (*tmp_path.parents, tmp_path):
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    closed = tmp_path / "closed"
    inner = closed / "inner"
    inner.mkdir(parents=True)
    closed.chmod(0o700)
    wanted = [str(inner), str(tmp_path), str(tmp_path / "absent" / "deep")]
    assert ownership.unreachable(R, NOBODY, wanted) == {str(inner): str(closed)}
    assert ownership.unreachable(R, QemuUser(0, 0), wanted) == {}
    os.chown(closed, 0, 4711)
    closed.chmod(0o710)
    assert ownership.unreachable(R, QemuUser(65534, 65534, (4711,)), wanted) == {}
    inner.chmod(0o644)
    assert ownership.unreachable(R, QemuUser(65534, 65534, (4711,)), wanted) == {str(inner): str(inner)}


@root
def test_the_groups_are_asked_for_by_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory service that does not answer is waited for with Python's lock held: never in the helper itself."""
    asked = []

    def groups_of(_uid: int, gid: int) -> list[int]:
        asked.append(gid)
        return [gid]

    monkeypatch.setattr(owner_calls, "groups_of", groups_of)
    assert owner_calls.reach(os.getuid(), os.getgid(), None, ["/"]) == [""]
    assert asked == []


def test_limits_are_asked_for_without_python_s_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pathconf(3) looks at the storage; Python holds its lock there, so one dead storage would freeze the helper."""
    monkeypatch.delattr(os, "pathconf")
    (look,) = path_calls.look_all([str(tmp_path)])
    assert (look["name_max"], look["path_max"]) == (os.statvfs(tmp_path).f_namemax, 4096)


def test_what_another_user_can_open(tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.touch(mode=0o600)
    for directory in [tmp_path, *tmp_path.parents][:-2]:
        directory.chmod(directory.stat().st_mode | 0o011)
    assert ownership.openable(R, QemuUser(0, 0), str(path)) == 0
    assert ownership.openable(R, NOBODY, str(path)) == errno.EACCES
    path.chmod(0o666)
    assert ownership.openable(R, NOBODY, str(path)) == 0
    assert ownership.openable(R, NOBODY, str(tmp_path / "absent")) == errno.ENOENT


def test_what_a_directory_can_hold_is_tried_without_a_trace(tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.write_bytes(b"")
    assert ownership.cannot_hold(R, str(tmp_path), str(source)) == ()
    assert os.listdir(tmp_path) == ["old"]


def test_findings() -> None:
    found = vm_checks.qemu_user_findings(
        "ssd", "web01", NOBODY, {"ssd": "/srv"}, {"ssd": "owner: Operation not permitted"}
    )
    assert [(finding.code, finding.is_error) for finding in found] == [
        ("QEMU_CANNOT_REACH", True),
        ("OWNER_LOST", False),
    ]
    assert "/srv" in found[0].text
    assert "65534" in found[0].remedy
    assert vm_checks.qemu_user_findings("ssd", "web01", NOBODY, {"other": "/srv"}, {}) == []
    assert vm_checks.qemu_user_findings("ssd", "web01", None, {"ssd": "/srv"}, {}) == []


# ------------------------------------------------------------ on another host


@root
def test_like_a_file_of_another_host(tmp_path: Path) -> None:
    """Users go by their names where both hosts have them; what the other host does not know goes by its number."""
    source, dest = file(tmp_path / "source", 12345, 0, 0o640), file(tmp_path / "dest", 0, 0, 0o600)
    os.setxattr(source, "user.note", b"kept")
    acl = bytes.fromhex("02000000") + b"".join(
        struct.pack("<HHI", *entry)
        for entry in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 12346),
            (4, 4, 0xFFFFFFFF),
            (0x10, 4, 0xFFFFFFFF),
            (0x20, 0, 0xFFFFFFFF),
        )
    )
    os.setxattr(source, "system.posix_acl_access", acl)
    assert not ownership.like_on(R, str(source), R, str(dest))
    assert owner(dest) == (12345, 0, 0o640)
    assert os.getxattr(dest, "user.note") == b"kept"
    assert os.getxattr(dest, "system.posix_acl_access") == acl


def test_numbers_of_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_calls, "user_number", lambda name, uid: {"qemu": 64055}.get(name, uid))
    monkeypatch.setattr(owner_calls, "group_number", lambda name, gid: {"kvm": 104}.get(name, gid))
    entries = ((1, 6, 0xFFFFFFFF), (2, 4, 107), (2, 4, 5000), (8, 6, 36))
    acl = bytes.fromhex("02000000") + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    found = owner_calls.translated(acl, {"107": "qemu", "5000": ""}, {"36": "kvm"})
    assert owner_calls.entries(found) == [(1, 6, 0xFFFFFFFF), (2, 4, 64055), (2, 4, 5000), (8, 6, 104)]
