"""A sample of the matrix of moves between hosts (`python -m faults hosts` is the whole), judged the same way.

Each run of `make test` plays some of these cells, by the commit. A case that fails says how it is repeated alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from faults.case import Case, Catalogue
from faults.host_moves import host_matrix, host_places
from faults.host_moves.host_fault import HostFault
from faults.host_moves.host_ground import HostGround
from faults.host_moves.host_scene import HostScene, serves_disks
from lab import Lab
from lab.process import kill_and_wait

pytestmark = pytest.mark.lab

SEED = 20261130

CASES = (
    "kill-us/own/1/alone-noted/0",
    "kill-us/shared/1/resumed/0",
    "kill-us/off-own/1/cold-part-copied/0",
    "kill-source-libvirtd/shared/1/migration-called/0",
    "kill-dest-libvirtd/off-shared/1/defined/0",
    "kill-dest-qemu/own/1/under-way/0",
    "lose-dest/off-own/1/cold-copied/0",
    "cut/paused/1/image-made/0",
    "dest-full/own/1/under-way/0",
    "expired-before/own/1/whole-move/0",
)


@pytest.fixture(scope="module")
def ground() -> Iterator[HostGround]:
    """A lab of its own: these cases kill its hosts."""
    with Lab.create() as lab, HostGround.open(lab) as found:
        yield found


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("text", CASES)
def test_a_fault_between_hosts_is_survived(ground: HostGround, text: str) -> None:
    result = host_matrix.play(ground, host_matrix.catalogue(), Case.parse(text), SEED)
    story = "\n".join([*result.notes, "", *result.evidence])
    found = "\n".join(result.findings)
    assert result.ok, f"{found}\npython -m faults hosts --seed {SEED} --repeat {text}\n\n{story}"
    assert result.reached, f"the fault did not strike at {result.point}: nothing was tried\n{story}"


def test_the_sample_names_cells_that_there_are() -> None:
    assert set(CASES) <= {case.id for case in host_matrix.catalogue().cells()}


# -- a judge that cannot fail is worth nothing ------------------------------------------------------------------------

_SEND = """
import socket, struct, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan")
guest, run, number = map(int, sys.argv[1:])
link.sendto(struct.pack("<IIQQ", 0x314E4342, guest, run, number), ("255.255.255.255", 7001))
"""


def _a_second_instance(scene: HostScene) -> None:
    """The source's host sends what the guest sends next, behind a link that is cut: as in a split brain."""
    last = scene.ground.witness.heard(scene.run)[-1]
    scene.source.cut_network()
    number = str(last.number + 1)
    scene.source.run(["python3", "-c", _SEND, str(last.guest), str(scene.run), number])
    scene.source.mend_network()


def _three_things_left(scene: HostScene) -> None:
    """After a move that went well: a second sender, a file, a server of a disk on a port of the copies."""
    scene.begin()
    scene.over()
    _a_second_instance(scene)
    (scene.ground.stores[scene.source.name].path / f"{scene.vm}-left.qcow2").touch()
    served = scene.ground.lab.directory / "tmp/served.raw"
    served.write_bytes(bytes(4096))
    scene.dest.run(["qemu-nbd", "--fork", "-t", "-f", "raw", "-p", "49300", served])


def _no_server(scene: HostScene) -> None:
    process = scene.dest.find_process(serves_disks)
    assert process is not None
    kill_and_wait(process)


def _a_definition_left(scene: HostScene) -> None:
    scene.begin()
    scene.over()
    xml = scene.dest.virsh("dumpxml", scene.vm, "--inactive")
    scene.source.virsh("define", "/dev/stdin", stdin=xml)


def _nothing(_scene: HostScene) -> None:
    return


@pytest.mark.parametrize(
    ("sabotage", "tidy", "findings"),
    [
        (_three_things_left, _no_server, ("two instances of ", "left over: ", "a qemu-nbd is left", "listens on")),
        (_a_definition_left, _nothing, ("is defined on 2 hosts",)),
    ],
    ids=["things-left", "definition-left"],
)
def test_the_judge_of_two_hosts_notices(
    ground: HostGround,
    sabotage: Callable[[HostScene], None],
    tidy: Callable[[HostScene], None],
    findings: tuple[str, ...],
) -> None:
    known = Catalogue[HostFault]()

    def whole_move(_kind: str, _disks: int) -> tuple[str, ...]:
        return (host_places.WHOLE_MOVE,)

    known.add(HostFault("sabotage", "judge", "", sabotage, whole_move, tidy=tidy, own=True))
    case = Case("sabotage", host_places.OWN, 1, host_places.WHOLE_MOVE)
    result = host_matrix.play(ground, known, case, SEED)
    for finding in findings:
        assert any(finding in one for one in result.findings), (finding, result.findings, result.notes)
