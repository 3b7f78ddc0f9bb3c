"""The simulated helper and qemu-img do what the real ones do: the same assertions on both."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from simulated_host.files import REGION, read
from simulated_host.helper import SimulatedRunner
from simulated_host.machine import Machine
from simulated_host.manager import Manager
from simulated_host.moves import installed

from blockferry.base.errors import FileExists, HostCallFailed, HostCommandFailed, ImageUnreadable
from blockferry.hosts.helper import comparison, files, image_users, ownership, references
from blockferry.hosts.images import chains, conversion, qemu_img
from blockferry.hosts.runner import LocalRunner, Runner

pytestmark = pytest.mark.slow

SIZE = 3 * REGION


class Side(Protocol):
    """A host's directory, and a guest's hand in its images."""

    @property
    def runner(self) -> Runner: ...

    def path(self, name: str) -> str: ...

    def put(self, path: str, region: int, number: int) -> None:
        """Write a region of an image as a guest does."""

    def get(self, path: str, region: int) -> int:
        """What a guest reads there."""


class RealSide:
    """The real helper, on this machine's file system."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.runner = LocalRunner()

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def put(self, path: str, region: int, number: int) -> None:
        words = f"write -q -P {number} {region * REGION} {REGION}"
        subprocess.run(["qemu-io", "-f", self._format(path), "-c", words, path], check=True, capture_output=True)

    def get(self, path: str, region: int) -> int:
        words = f"read -v {region * REGION} 512"
        argv = ["qemu-io", "-r", "-f", self._format(path), "-c", words, path]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return int(said.split()[1], 16)

    @staticmethod
    def _format(path: str) -> str:
        return "raw" if path.endswith(".img") else "qcow2"


class SimulatedSide:
    def __init__(self) -> None:
        self._machine = Machine(1)
        self._machine.domain.config = None
        self._machine.check = lambda: None  # type: ignore[method-assign]
        self.runner = SimulatedRunner(self._machine, Manager(self._machine.moment))

    def path(self, name: str) -> str:
        return f"/san/{name}"

    def put(self, path: str, region: int, number: int) -> None:
        inode = self._machine.files.find(path)
        assert inode.image is not None
        inode.image.regions[region] = number
        self._machine.files.touch(inode)

    def get(self, path: str, region: int) -> int:
        return read(self._machine.files.chain(path)).get(region, 0)


@pytest.fixture(params=["real", "simulated"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    with installed():
        yield RealSide(tmp_path) if request.param == "real" else SimulatedSide()


def fails(number: int, work: object) -> None:
    with pytest.raises(HostCallFailed) as error:
        work()  # type: ignore[operator]
    assert error.value.errno == number


def test_names(side: Side) -> None:
    r, home = side.runner, side.path("home")
    assert files.make_directory(r, home, 0o711)
    assert not files.make_directory(r, home)
    one, two = f"{home}/one", f"{home}/two"
    assert not files.is_there(r, one)
    files.claim(r, one)
    with pytest.raises(FileExists):
        files.claim(r, one)
    with pytest.raises(FileExists):
        files.make_directory(r, one)
    fails(errno.ENOENT, lambda: files.claim(r, side.path("absent/file")))
    assert files.list_directory(r, home) == ("one",)
    files.rename(r, one, two)
    files.claim(r, one)
    fails(errno.EEXIST, lambda: files.rename(r, one, two))
    fails(errno.ENOENT, lambda: files.rename(r, f"{home}/absent", f"{home}/other"))
    assert not files.remove_directory_if_empty(r, home)
    assert files.remove_file(r, one)
    assert not files.remove_file(r, one)
    assert files.remove_file(r, two)
    assert files.remove_directory_if_empty(r, home)
    assert not files.remove_directory_if_empty(r, home)
    fails(errno.ENOENT, lambda: files.list_directory(r, home))


def test_content(side: Side) -> None:
    r, one, two = side.runner, side.path("one"), side.path("two")
    files.write_file(r, one, b"hello", 0o644)
    assert files.read_file(r, one) == b"hello"
    assert files.first_bytes(r, one, 2) == b"he"
    before = files.stat_one(r, one)
    assert before is not None
    assert (before.size, before.kind, before.mode) == (5, "file", 0o644)
    files.write_file(r, one, b"other", 0o644)
    after = files.stat_one(r, one)
    assert after is not None
    assert after.inode != before.inode  # written anew, not into
    assert files.copy_file(r, one, two)
    assert not files.copy_file(r, one, two)
    assert files.same_content(r, one, two)
    assert files.digest(r, one) == files.digest(r, two)
    files.write_file(r, one, b"changed")
    assert not files.same_content(r, one, two)
    with pytest.raises(FileExists):
        files.copy_file(r, one, two)
    files.copy_over(r, one, two)
    assert files.read_file(r, two) == b"changed"
    files.flush(r, two)
    fails(errno.ENOENT, lambda: files.flush(r, side.path("absent")))
    fails(errno.ENOENT, lambda: files.read_file(r, side.path("absent")))
    assert files.stat_one(r, side.path("absent")) is None
    assert files.appear(r, two, side.path("three"))
    assert not files.appear(r, one, side.path("three"))
    assert files.stat_one(r, two) is None


def test_what_lies_where(side: Side) -> None:
    r, one = side.runner, side.path("one")
    files.write_file(r, one, b"x")
    directory = one.rpartition("/")[0]
    assert files.realpath(r, one) == one
    assert files.link_target(r, one) is None
    assert files.same_filesystem(r, one, directory)
    points = files.mount_points(r, [one, side.path("absent")])
    assert points[one] == points[side.path("absent")]
    assert directory.startswith(points[one])
    assert files.writable_directory(r, directory)
    assert not files.writable_directory(r, one)
    assert files.free_bytes(r, directory) > 0
    looked = references.look(r, [one, side.path("absent"), side.path("absent/one")], [directory])
    assert looked.paths[one].there
    found = files.stat_one(r, one)
    assert found is not None
    assert looked.paths[one].identity == (found.device, found.inode)
    assert not looked.paths[side.path("absent")].there
    assert not looked.paths[side.path("absent")].error
    assert not looked.directories[directory].problem


def test_owners(side: Side) -> None:
    r, one, two = side.runner, side.path("one"), side.path("two")
    files.write_file(r, one, b"x", 0o640)
    files.write_file(r, two, b"x", 0o600)
    assert ownership.like(r, one, two) == ()
    found = files.stat_one(r, two)
    assert found is not None
    assert found.mode == 0o640


def test_images(side: Side) -> None:
    """Created, above another one, committed; what a guest reads from them."""
    r, base, above = side.runner, side.path("base.qcow2"), side.path("above.qcow2")
    qemu_img.create(r, base, "qcow2", SIZE)
    with pytest.raises(FileExists):
        qemu_img.create(r, base, "qcow2", SIZE)
    assert not qemu_img.holds_data(r, base)
    side.put(base, 0, 1)
    side.put(base, 1, 2)
    qemu_img.create(r, above, "qcow2", SIZE, backing=(base, "qcow2"))
    assert not qemu_img.holds_data(r, above)
    side.put(above, 1, 3)
    assert qemu_img.holds_data(r, above)
    assert [side.get(above, region) for region in range(3)] == [1, 3, 0]
    chain = qemu_img.chain(r, above, "qcow2")
    assert [(chain_image.path, chain_image.format, chain_image.virtual_size) for chain_image in chain] == [
        (above, "qcow2", SIZE),
        (base, "qcow2", SIZE),
    ]
    assert chain[0].allocation < chain[1].allocation
    read_chain = chains.read(r, [(above, "qcow2")])[above, "qcow2"]
    assert [layer.path for layer in read_chain.layers] == [above, base]
    listing = references.look(r, [], [base.rpartition("/")[0]]).directories[base.rpartition("/")[0]]
    assert listing.stands_on == {above: (base,)}
    assert qemu_img.check(r, above, "qcow2").sound
    before = files.stat_one(r, base)
    qemu_img.commit(r, above)
    assert [side.get(base, region) for region in range(3)] == [1, 3, 0]
    assert files.stat_one(r, base) != before
    with pytest.raises(ImageUnreadable):
        qemu_img.chain(r, side.path("absent.qcow2"), "qcow2")


@pytest.mark.parametrize("ending", ["qcow2", "img"])
def test_convert(side: Side, ending: str) -> None:
    r, base, above = side.runner, side.path("base.qcow2"), side.path("above.qcow2")
    dest, format = side.path(f"dest.{ending}"), "raw" if ending == "img" else "qcow2"
    qemu_img.create(r, base, "qcow2", SIZE)
    side.put(base, 0, 1)
    qemu_img.create(r, above, "qcow2", SIZE, backing=(base, "qcow2"))
    side.put(above, 2, 3)
    seen: list[float] = []
    claimed: list[bool] = []
    conversion.convert(
        r,
        above,
        "qcow2",
        dest,
        format,
        progress=seen.append,
        ownership=qemu_img.Ownership(lambda: claimed.append(files.is_there(r, dest))),
    )
    assert claimed == [True]
    assert seen[-1] == 1.0
    assert [side.get(dest, region) for region in range(3)] == [1, 0, 3]
    assert qemu_img.chain(r, dest, format)[0].virtual_size == SIZE
    with pytest.raises(FileExists):
        conversion.convert(r, above, "qcow2", dest, format)
    with pytest.raises(conversion.ConversionStopped):
        conversion.convert(r, above, "qcow2", dest + "-other", format, should_stop=lambda: True)
    assert not files.is_there(r, dest + "-other")


def test_convert_one_layer(side: Side) -> None:
    r, base, above = side.runner, side.path("base.qcow2"), side.path("above.qcow2")
    new_base, dest = side.path("new-base.qcow2"), side.path("dest.qcow2")
    for path in (base, new_base):
        qemu_img.create(r, path, "qcow2", SIZE)
        side.put(path, 0, 1)
    qemu_img.create(r, above, "qcow2", SIZE, backing=(base, "qcow2"))
    side.put(above, 2, 3)
    conversion.convert(r, above, "qcow2", dest, "qcow2", backing=(new_base, "qcow2"))
    side.put(new_base, 1, 9)
    assert [side.get(dest, region) for region in range(3)] == [1, 9, 3]


def test_compare_and_sync(side: Side) -> None:
    r, one, two = side.runner, side.path("one.qcow2"), side.path("two.qcow2")
    if comparison.problem(r) is not None:
        pytest.skip("no libnbd for Python here")
    for path in (one, two):
        qemu_img.create(r, path, "qcow2", SIZE)
    side.put(one, 0, 1)
    side.put(one, 1, 2)
    side.put(two, 1, 2)
    side.put(two, 2, 7)
    found = comparison.compare(r, one, "qcow2", two, "qcow2")
    assert found.first[0] == 0
    assert found.differing
    done = comparison.sync(r, one, "qcow2", two, "qcow2")
    assert done.written + done.zeroed == 2 * REGION
    assert [side.get(two, region) for region in range(3)] == [1, 2, 0]
    assert not comparison.compare(r, one, "qcow2", two, "qcow2").differing


def test_nobody_uses_a_file(side: Side) -> None:
    r, one = side.runner, side.path("one.qcow2")
    qemu_img.create(r, one, "qcow2", SIZE)
    assert not image_users.users_of(r, one).any
    assert image_users.writer(r, one) == ""
    assert not image_users.in_use(r, one)
    assert image_users.writing_qemus(r, [one, side.path("absent")]) == ()
    with pytest.raises(ImageUnreadable):
        image_users.users_of(r, side.path("absent"))


def test_programs_that_fail(side: Side) -> None:
    r = side.runner
    with pytest.raises(HostCommandFailed):
        qemu_img.commit(r, side.path("absent.qcow2"))
    with pytest.raises(ImageUnreadable):
        conversion.convert(r, side.path("absent.qcow2"), "qcow2", side.path("dest.qcow2"), "qcow2")
    assert not files.is_there(r, side.path("dest.qcow2"))
