"""The pre-check of a move to another host: what is read out of XML, and every rule, refused and allowed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockferry.host_move.precheck import rules, tls_rules
from blockferry.host_move.precheck.catalogue import CATALOGUE, EVERY_FINDING
from blockferry.host_move.precheck.host_move_facts import (
    Asked,
    HostFacts,
    PeerTrial,
    Sharing,
    TlsSeen,
    TpmSeen,
    VariablesSeen,
)
from blockferry.hosts.host_traits import CpuAnswer, CpuVerdict, HostTraits, Hypervisor, NumaNode
from blockferry.hosts.identity import HostId
from blockferry.hosts.images.qemu_img import ChainImage
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Mirror, PowerState, Vm
from blockferry.hosts.libvirt import capabilities, needs_xml
from blockferry.hosts.neighbour_facts import Certificate, ClockSeen, NamesSeen, PortTrial
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.vm_needs import Listen, Medium, NeededPath, Nic, Presence, Unmovable, VmNeeds
from blockferry.storage_move.precheck import finding as any_move

GIB = 1 << 30
QEMU = "/usr/bin/qemu-system-x86_64"
DIR = "/etc/pki/qemu"


def disk(target: str = "vda", **more: Any) -> Disk:
    source = DiskSource("file", f"/srv/{target}.qcow2", "qcow2")
    return replace(Disk(target, "disk", "virtio", source, source), **more)


def path(name: str, kind: str = "file") -> PathFacts:
    return PathFacts(name, name, kind)


def traits(name: str, **more: Any) -> HostTraits:
    return replace(
        HostTraits(
            HostId(f"qemu+ssh://{name}/system", f"uuid-of-{name}", name), name, (9, 0, 0), (7, 2, 22), 8 * GIB, 6 * GIB,
            frozenset(range(4)), (NumaNode(0, frozenset(range(4)), {2 << 20: 512}),), frozenset({"dac"}),
            qemu_user="+64055:+64055",
            networks={"default": True, "lan": True, "asleep": False},
        ),
        **more,
    )  # fmt: skip


def certificate(name: str, **more: Any) -> Certificate:
    return replace(Certificate(f"{DIR}/{name}", 0, 1000.0, 9000.0, ("kvm2",)), **more)


PLAIN = HostFacts(
    vm=Vm("web01", "uuid-of-web01", PowerState.RUNNING, True, (disk(),)),
    needs=VmNeeds("kvm", QEMU, "x86_64", "pc-q35-7.2", vcpus=2, memory=2 * GIB),
    source=traits("kvm1", vms={"uuid-of-web01": "web01"}),
    destination=traits("kvm2"),
    hypervisor=Hypervisor(
        frozenset({"pc-q35-7.2", "q35", "pc-q35-6.0", "pc-q35-10.0"}), frozenset({"kvm", "qemu"}), QEMU,
        most_cpus=288, tpm_backends=frozenset({"emulator"}),
    ),
    cpu=CpuVerdict(CpuAnswer.SAME),
    running_qemu=(7, 2, 22),
    stores=(Datastore("ssd", "", "dir", True, "/ssd", 100 * GIB, 50 * GIB), Datastore("off", "", "dir", False, "/off")),
    links={"br0": "bridge", "ovs0": "ovs", "eth0": "device"},
    paths={QEMU: path(QEMU)},
    clock=ClockSeen(0.004, 0.01),
    names=NamesSeen("kvm2", ("10.0.0.2",), ()),
    ports=PortTrial("kvm2", "10.0.0.2", {49152: 0, 49153: 0}, {}),
)  # fmt: skip
GOING = Asked(disks={"vda": "ssd"}, takes={"ssd": GIB})
FIRST = replace(GOING, storage_first=True)
STAYING = Asked()
TLS = replace(GOING, tls=True, require_tls=True)
GOOD_TLS = TlsSeen(
    (certificate("ca-cert.pem"), certificate("client-cert.pem"), certificate("client-key.pem", since=-1.0, until=-1.0)),
    (certificate("ca-cert.pem", names=("the CA",)), certificate("server-cert.pem")),
    2000.0,
    2000.0,
)
OLD_LIBVIRT = replace(
    PLAIN,
    source=replace(PLAIN.source, libvirt=(9, 3, 0)),
    destination=replace(PLAIN.destination, libvirt=(9, 4, 0)),
)
ABSENT_TLS = (certificate("ca-cert.pem", errno=errno.ENOENT),)


def needs(**more: Any) -> HostFacts:
    return replace(PLAIN, needs=replace(PLAIN.needs, **more))


def vm(**more: Any) -> HostFacts:
    return replace(PLAIN, vm=replace(PLAIN.vm, **more))


def there(**more: Any) -> HostFacts:
    return replace(PLAIN, destination=replace(PLAIN.destination, **more))


def can(**more: Any) -> HostFacts:
    return replace(PLAIN, hypervisor=replace(PLAIN.hypervisor, **more))


def off(facts: HostFacts) -> HostFacts:
    return replace(facts, vm=replace(facts.vm, state=PowerState.OFF))


def with_paths(facts: HostFacts, *looks: PathFacts) -> HostFacts:
    return replace(facts, paths={**facts.paths, **{look.path: look for look in looks}})


def nic(kind: str, source: str) -> HostFacts:
    return needs(nics=(Nic(kind, source, "the network interface 52:54:00:00:00:01"),))


def tls(side: str, *files: Certificate) -> HostFacts:
    seen = replace(GOOD_TLS, source=files) if side == "source" else replace(GOOD_TLS, destination=files)
    return replace(PLAIN, tls=seen)


def codes(facts: HostFacts, asked: Asked = GOING) -> list[str]:
    return sorted(finding.code for finding in rules.findings(facts, asked))


def test_a_vm_that_simply_moves_has_no_finding() -> None:
    assert rules.findings(PLAIN, GOING) == []
    assert rules.findings(off(PLAIN), GOING) == []
    assert rules.findings(replace(PLAIN, tls=GOOD_TLS), TLS) == []
    assert rules.findings(replace(PLAIN, sharing={"vda": Sharing.SAME}), STAYING) == []


LAYER = ChainImage(
    "/srv/vda.qcow2", "qcow2", GIB, GIB, None, None, (), (), False, "1.1", None, False, False, 65536
)  # fmt: skip
LOADER, LOG, KERNEL = "/usr/share/OVMF/OVMF_CODE.fd", "/srv/logs/serial.log", "/srv/vmlinuz"
VNC = Listen("VNC", "192.0.2.1", 5901)
TLS_PATH = f"{DIR}/server-cert.pem"

REFUSED: list[tuple[str, HostFacts, Asked]] = [
    ("SAME_HOST", replace(PLAIN, destination=PLAIN.source), GOING),
    ("VM_NAME_TAKEN", there(vms={"another": "web01"}), GOING),
    ("VM_UUID_TAKEN", there(vms={"uuid-of-web01": "web01"}), GOING),
    ("VM_UUID_TAKEN", there(vms={"uuid-of-web01": "old-web01"}), GOING),
    ("JOB_ON_VM", vm(job="backup"), GOING),
    ("JOB_ON_DISK", vm(disks=(disk(mirror=Mirror("copy", "/x", "raw", False)),)), GOING),
    ("JOB_ON_DISK", vm(disks=(disk(other_job="commit"),)), GOING),
    ("SAVED_STATE_STAYS", off(vm(has_managed_save=True)), GOING),
    ("SNAPSHOTS_STAY", vm(snapshots=("before",)), GOING),
    ("CHECKPOINTS_STAY", vm(checkpoints=("monday", "tuesday")), GOING),
    ("VM_TRANSIENT", vm(persistent=False), GOING),
    ("UEFI_VARIABLES", replace(vm(nvram="/nvram/a.fd"), variables=VariablesSeen("/nvram/a.fd", 540672)), GOING),
    (
        "FIRMWARE_DIFFERS",
        replace(vm(nvram="/a.fd"), variables=VariablesSeen("/a.fd", loaders={"/OVMF.fd": (4096, 2048)})),
        GOING,
    ),
    ("TPM_STATE", needs(odd_tpm="keeps its state encrypted"), GOING),
    ("TPM_TAKEN", replace(vm(tpm=True), tpm=TpmSeen("/tpm", {"/tpm/state": 1}, ("/tpm/state",))), GOING),
    ("VM_STATE", vm(state=PowerState.CRASHED), GOING),
    ("CHAIN_STAYS", replace(PLAIN, images={"vda": (LAYER, replace(LAYER, path="/srv/base.qcow2"))}), GOING),
    ("CACHE_STALE", replace(there(qemu=(3, 1, 0)), running_qemu=(3, 1, 0), sharing={"vda": Sharing.SAME}), STAYING),
    (
        "MEDIUM_DIFFERS",
        replace(
            with_paths(needs(media=(Medium("sda", "/srv/a.iso"),)), path("/srv/a.iso")),
            sharing={"sda": Sharing.MEDIUM_DIFFERS},
        ),
        GOING,
    ),
    ("NO_KVM", can(virt_types=frozenset({"qemu"})), GOING),
    ("EMULATOR_MISSING", with_paths(needs(emulator="/opt/qemu"), path("/opt/qemu", "absent")), GOING),
    ("MACHINE_TYPE_MISSING", needs(machine="pc-q35-8.2"), GOING),
    ("MACHINE_TYPE_MISSING", off(needs(machine="pc-q35-8.2")), GOING),
    ("MACHINE_TYPE_MISSING", can(problem="unknown machine"), GOING),
    ("MACHINE_TYPE_MISSING", replace(needs(machine="pc-q35-10.0"), running_qemu=(10, 0, 2)), GOING),
    ("QEMU_OLDER", replace(PLAIN, running_qemu=(10, 0, 2)), GOING),
    ("LIBVIRT_OLDER", there(libvirt=(8, 9, 0)), GOING),
    ("CPU_MISSING", replace(PLAIN, cpu=CpuVerdict(CpuAnswer.LESS, "missing features: avx2")), GOING),
    ("CPU_UNKNOWN", replace(PLAIN, cpu=CpuVerdict(CpuAnswer.UNKNOWN)), GOING),
    ("CPU_DIFFERS", replace(needs(cpu_mode="host-passthrough"), cpu=CpuVerdict(CpuAnswer.MORE)), GOING),
    ("TOO_MANY_CPUS", replace(needs(vcpus=300)), GOING),
    ("CPUS_OVERCOMMITTED", needs(vcpus=5), GOING),
    ("MEMORY_SHORT", needs(memory=6 * GIB), GOING),
    ("MEMORY_SHORT", off(needs(memory=8 * GIB)), GOING),
    ("MEMORY_LOCKED", needs(locked=True), GOING),
    ("HUGEPAGES_SHORT", needs(hugepages={2 << 20: 2 * GIB}), GOING),
    ("HUGEPAGES_SHORT", needs(hugepages={GIB: GIB}), GOING),
    ("HUGEPAGES_SHORT", replace(needs(hugepages={0: GIB}), destination=traits("kvm2", nodes=())), GOING),
    ("NUMA_MISSING", needs(nodes=frozenset({0, 1})), GOING),
    ("NUMA_MISSING", needs(pinned=frozenset({3, 4})), GOING),
    ("NETWORK_MISSING", nic("network", "dmz"), GOING),
    ("NETWORK_MISSING", nic("network", "asleep"), GOING),
    ("NETWORK_MISSING", nic("bridge", "br1"), GOING),
    ("NETWORK_MISSING", nic("bridge", "eth0"), GOING),
    ("NETWORK_MISSING", nic("ovs", "eth0"), GOING),
    ("NETWORK_MISSING", nic("device", "eth1"), GOING),
    ("NETWORK_MISSING", nic("network", "lan"), replace(GOING, networks={"lan": "dmz"})),
    ("NETWORK_NOT_NAMED", nic("network", "lan"), replace(GOING, networks={"lam": "default"})),
    ("NETWORK_FILTER_MISSING", needs(filters=frozenset({"clean-traffic"})), GOING),
    ("NETWORK_MISSING", nic("ovs", "br0"), GOING),
    ("HOST_DEVICE", needs(host_devices=("the PCI device 0000:03:00.0",)), GOING),
    ("HOST_DEVICE", off(needs(host_devices=("the PCI device 0000:03:00.0",))), GOING),
    ("DEVICE_UNMOVABLE", needs(unmovable=(Unmovable("a vDPA network device"),)), GOING),
    (
        "TPM_MISSING",
        replace(needs(tpm="emulator"), hypervisor=replace(PLAIN.hypervisor, tpm_backends=frozenset())),
        GOING,
    ),
    ("QEMU_ARGUMENTS", needs(arguments=True), GOING),
    ("PATH_MISSING", with_paths(needs(paths=(NeededPath(LOADER, "firmware"),)), path(LOADER, "absent")), GOING),
    ("PATH_MISSING", with_paths(needs(paths=(NeededPath(LOADER, "firmware"),)), path(LOADER, "dangling")), GOING),
    (
        "PATH_MISSING",
        with_paths(needs(paths=(NeededPath(LOG, "log file", Presence.PARENT),)), path("/srv/logs", "absent")),
        GOING,
    ),
    ("MEDIUM_MISSING", with_paths(needs(media=(Medium("sda", "/srv/a.iso"),)), path("/srv/a.iso", "absent")), GOING),
    (
        "MEDIUM_DROPPED",
        with_paths(needs(media=(Medium("sda", "/srv/a.iso", optional=True),)), path("/srv/a.iso", "absent")),
        GOING,
    ),
    ("LISTEN_ADDRESS", replace(needs(listens=(VNC,)), binds={VNC: errno.EADDRNOTAVAIL}), GOING),
    ("LISTEN_PORT_TAKEN", replace(needs(listens=(VNC,)), binds={VNC: errno.EADDRINUSE}), GOING),
    ("SECURITY_MODEL_MISSING", needs(security=frozenset({"selinux"})), GOING),
    ("SECURITY_DIFFERS", there(security=frozenset({"dac", "apparmor"})), GOING),
    ("QEMU_USER_DIFFERS", replace(there(qemu_user="+107:+107"), sharing={"vda": Sharing.SAME}), STAYING),
    ("DATASTORE_MISSING", PLAIN, Asked(disks={"vda": "hdd"})),
    ("DATASTORE_INACTIVE", PLAIN, Asked(disks={"vda": "off"})),
    ("DESTINATION_FULL", PLAIN, replace(GOING, takes={"ssd": 50 * GIB})),
    ("DISK_NOT_SHARED", replace(PLAIN, sharing={"vda": Sharing.ABSENT}), STAYING),
    ("DISK_NOT_PROVEN_SHARED", replace(PLAIN, sharing={"vda": Sharing.OTHER}), STAYING),
    ("DISK_NOT_PROVEN_SHARED", PLAIN, STAYING),
    ("CACHE_UNSAFE", replace(vm(disks=(disk(cache="unsafe"),)), sharing={"vda": Sharing.SAME}), STAYING),
    ("CLOCKS_APART", replace(PLAIN, clock=ClockSeen(-3.0, 0.1)), GOING),
    ("OWN_NAME_UNKNOWN", replace(PLAIN, names=NamesSeen("kvm2", (), ())), GOING),
    ("ADDRESS_UNKNOWN", replace(PLAIN, ports=PortTrial("kvm2", "", {}, {}, name_error=-2)), GOING),
    ("PORT_CLOSED", replace(PLAIN, ports=PortTrial("kvm2", "10.0.0.2", {49152: errno.ETIMEDOUT}, {})), GOING),
    ("WRONG_MACHINE", replace(PLAIN, ports=PortTrial("kvm2", "10.0.0.9", {49152: errno.EREMCHG}, {})), GOING),
    ("PORTS_TAKEN", replace(PLAIN, ports=PortTrial("kvm2", "10.0.0.2", {}, {49152: errno.EADDRINUSE})), GOING),
    ("PEER_UNREACHABLE", replace(PLAIN, peer=PeerTrial("qemu+tls://kvm2/system", "no route")), GOING),
    ("HOST_CALLS_MISSING", replace(PLAIN, no_calls={"kvm2": "virsh is not installed"}), GOING),
    ("NOT_STORAGE_FIRST", vm(pause_reason="ioerror", state=PowerState.PAUSED), FIRST),
    ("NOT_STORAGE_FIRST", vm(disks=(disk(read_only=True),)), FIRST),
    ("NOT_STORAGE_FIRST", replace(PLAIN, source_free={"vda": 1 << 20}), FIRST),
    ("NOT_STORAGE_FIRST", there(qemu=(10, 1, 0)), FIRST),
    ("NOT_STORAGE_FIRST", replace(PLAIN, variables=VariablesSeen("/nvram/a.fd", 9, Sharing.SAME)), FIRST),
    ("NOT_STORAGE_FIRST", replace(PLAIN, tpm=TpmSeen("/tpm", {"/tpm/state": 1})), FIRST),
    (
        "PORT_CLOSED",
        replace(PLAIN, copy_ports=PortTrial("kvm2", "10.0.0.2", {49216: errno.ETIMEDOUT}, {})),
        FIRST,
    ),
    ("TLS_NOT_ASKED", PLAIN, replace(GOING, require_tls=True)),
    ("TLS_MISSING", tls("source", certificate("client-key.pem", errno=errno.ENOENT)), TLS),
    ("TLS_MISSING", tls("destination", certificate("ca-cert.pem", until=-1.0)), TLS),
    ("TLS_MISSING", tls("source", certificate("client-key.pem", errno=errno.EACCES)), TLS),
    ("TLS_ONE_SIDED", tls("destination", certificate("server-cert.pem", errno=errno.ENOENT)), GOING),
    ("TLS_ONE_SIDED", tls("source", certificate("client-key.pem", errno=errno.ENOENT)), GOING),
    ("COMPRESSION_UNSUPPORTED", OLD_LIBVIRT, replace(GOING, compression="zstd")),
    ("TLS_EXPIRED", tls("destination", certificate("server-cert.pem", until=1500.0)), TLS),
    ("TLS_EXPIRED", tls("source", certificate("client-cert.pem", since=2500.0)), TLS),
    ("TLS_NAME", tls("destination", certificate("server-cert.pem", names=("kvm9",))), TLS),
    ("TLS_KEY", tls("destination", certificate("server-cert.pem", curve=True)), TLS),
]


@pytest.mark.parametrize(("code", "facts", "asked"), REFUSED, ids=[f"{at}-{one[0]}" for at, one in enumerate(REFUSED)])
def test_what_is_found(code: str, facts: HostFacts, asked: Asked) -> None:
    """Exactly that, with the names of the case in one line, and something to do where the catalogue has it."""
    (found,) = rules.findings(facts, asked)
    assert found.code == code
    assert "\n" not in found.text
    assert found.text.endswith(".")
    assert found.severity is EVERY_FINDING[code].severity
    assert bool(found.remedy) == bool(EVERY_FINDING[code].remedy)
    assert any(name in found.text for name in ("web01", "kvm1", "kvm2", "require_tls")), found.text


def test_every_kind_is_found_by_a_case() -> None:
    assert set(CATALOGUE) <= {code for code, _, _ in REFUSED}
    assert not set(CATALOGUE) & set(any_move.CATALOGUE)


ALLOWED: list[tuple[str, HostFacts, Asked]] = [
    ("another VM there", there(vms={"another": "db01"}), GOING),
    ("an emulator that capabilities name", replace(PLAIN, paths={}), GOING),
    ("a newer QEMU and libvirt", there(qemu=(10, 0, 2), libvirt=(11, 3, 0)), GOING),
    ("a newer point release here", replace(PLAIN, running_qemu=(7, 2, 30)), GOING),
    (
        "a newer QEMU here, and the VM is off",
        off(replace(PLAIN, running_qemu=None, source=traits("kvm1", qemu=(10, 0, 0)))),
        GOING,
    ),
    ("more CPU than it has", replace(PLAIN, cpu=CpuVerdict(CpuAnswer.MORE)), GOING),
    ("the same CPU passed through", needs(cpu_mode="host-passthrough"), GOING),
    ("as many CPUs as there are", needs(vcpus=4), GOING),
    ("memory that just fits", needs(memory=6 * GIB - (256 << 20)), GOING),
    ("off: memory that others have now", off(needs(memory=7 * GIB)), GOING),
    ("huge pages", needs(hugepages={2 << 20: GIB}), GOING),
    ("huge pages of the default size", needs(hugepages={0: GIB}), GOING),
    ("memory in huge pages counts once", needs(memory=6 * GIB, hugepages={2 << 20: GIB}), GOING),
    ("NUMA", needs(nodes=frozenset({0}), pinned=frozenset({0, 3})), GOING),
    ("a network", nic("network", "default"), GOING),
    ("a mapped network", nic("network", "dmz"), replace(GOING, networks={"dmz": "lan"})),
    ("a mapped bridge", nic("bridge", "br7"), replace(GOING, networks={"br7": "br0"})),
    ("a network that stands for a bridge, mapped",
     needs(nics=(Nic("bridge", "br7", "an interface", "dmz"), Nic("network", "dmz", "an interface"))),
     replace(GOING, networks={"dmz": "lan"})),
    ("a bridge", nic("bridge", "br0"), GOING),
    ("a bridge of Open vSwitch", nic("ovs", "ovs0"), GOING),
    ("a network device", nic("device", "eth0"), GOING),
    ("off: a device that only a migration cannot send", off(needs(unmovable=(Unmovable("virtiofs"),))), GOING),
    ("a TPM", needs(tpm="emulator"), GOING),
    ("firmware", with_paths(needs(paths=(NeededPath(LOADER, "firmware"),)), path(LOADER)), GOING),
    (
        "a device",
        with_paths(needs(paths=(NeededPath("/dev/urandom", "device"),)), path("/dev/urandom", "other")),
        GOING,
    ),
    (
        "a log file",
        with_paths(needs(paths=(NeededPath(LOG, "log file", Presence.PARENT),)), path("/srv/logs", "directory")),
        GOING,
    ),
    ("a medium", with_paths(needs(media=(Medium("sda", "/srv/a.iso"),)), path("/srv/a.iso")), GOING),
    ("VNC", replace(needs(listens=(VNC,)), binds={VNC: 0}), GOING),
    ("a security driver", needs(security=frozenset({"dac"})), GOING),
    ("another user of QEMU, and all disks go", there(qemu_user="+107:+107"), GOING),
    ("just enough space", PLAIN, replace(GOING, takes={"ssd": 49 * GIB})),
    ("a cache mode that all disks leave behind", vm(disks=(disk(cache="unsafe"),)), GOING),
    ("an empty drive", vm(disks=(disk(), Disk("sda", "cdrom", "sata", None, None))), GOING),
    ("clocks apart by less than can be told", replace(PLAIN, clock=ClockSeen(2.0, 1.5)), GOING),
    (
        "a busy port beside free ones",
        replace(PLAIN, ports=PortTrial("kvm2", "10.0.0.2", {49153: 0}, {49152: 98})),
        GOING,
    ),
    ("off: no ports", off(replace(PLAIN, ports=None)), GOING),
    ("disks first", replace(PLAIN, source_free={"vda": GIB}), FIRST),
    ("disks first: off", off(replace(PLAIN, source_free={"vda": 1 << 20}, ports=None)), FIRST),
    ("a peer that answers", replace(PLAIN, peer=PeerTrial("qemu+tls://kvm2/system")), GOING),
    ("certificates on no host", replace(PLAIN, tls=TlsSeen(ABSENT_TLS, ABSENT_TLS)), GOING),
]  # fmt: skip


@pytest.mark.parametrize(("what", "facts", "asked"), ALLOWED, ids=[one[0] for one in ALLOWED])
def test_what_is_no_reason(what: str, facts: HostFacts, asked: Asked) -> None:
    assert codes(facts, asked) == [], what


def test_all_reasons_at_once() -> None:
    facts = replace(nic("network", "dmz"), cpu=CpuVerdict(CpuAnswer.LESS, "missing features: avx2"))
    facts = replace(facts, vm=replace(facts.vm, snapshots=("a", "b")), ports=PortTrial("kvm2", "", {}, {}, -2))
    assert codes(facts) == ["ADDRESS_UNKNOWN", "CPU_MISSING", "NETWORK_MISSING", "SNAPSHOTS_STAY"]
    texts = [finding.text for finding in rules.findings(facts, GOING)]
    assert any("avx2" in text for text in texts), texts


def test_one_missing_network_is_said_once() -> None:
    two = needs(nics=tuple(Nic("network", "dmz", f"interface {one}") for one in "ab"))
    assert codes(two) == ["NETWORK_MISSING"]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_a_machine_type_of_a_later_qemu_never_goes_to_an_earlier_one(running: int, here: int, machine: int) -> None:
    """Whatever the destination says it has."""
    name = f"pc-q35-{machine}.0"
    facts = replace(can(machines=frozenset({name})), running_qemu=(running, 0, 0))
    facts = replace(facts, needs=replace(facts.needs, machine=name))
    facts = replace(facts, destination=replace(facts.destination, qemu=(here, 0, 0)))
    expected = [] if running <= here else ["QEMU_OLDER"] if machine <= here else ["MACHINE_TYPE_MISSING"]
    assert codes(facts) == expected


@given(st.integers(0, 8 * GIB), st.integers(0, 8 * GIB))
def test_more_free_memory_never_makes_it_worse(memory: int, free: int) -> None:
    facts = replace(there(memory_free=free), needs=replace(PLAIN.needs, memory=memory))
    more = replace(facts, destination=replace(facts.destination, memory_free=free + GIB))
    assert set(codes(more)) <= set(codes(facts))


# -- what is read out of XML --------------------------------------------------------------------------------------


DOMAIN = """\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web01</name><memory unit='KiB'>4194304</memory>
  <memoryBacking><hugepages><page size='2048' unit='KiB' nodeset='0'/></hugepages><locked/></memoryBacking>
  <vcpu placement='static' cpuset='0-3,^2'>4</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='5'/><emulatorpin cpuset='6'/></cputune>
  <numatune><memory mode='strict' nodeset='1'/></numatune>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader readonly='yes' type='pflash'>/fw/CODE.fd</loader>
    <nvram template='/fw/VARS.fd'>/var/lib/libvirt/qemu/nvram/web01_VARS.fd</nvram></os>
  <cpu mode='custom' match='exact'><model fallback='forbid'>Skylake-Client</model>
    <feature policy='require' name='invtsc'/>
    <numa><cell id='0' cpus='0-3' memory='2097152' unit='KiB'/></numa></cpu>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/srv/a.qcow2'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><source file='/iso/a.iso' startupPolicy='optional'/><target dev='sda'/></disk>
    <disk type='file' device='cdrom'><target dev='sdb'/></disk>
    <disk type='nvme' device='disk'><source type='pci'/><target dev='vdb'/></disk>
    <filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/share'/><target dir='share'/></filesystem>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan' portgroup='x'/></interface>
    <interface type='bridge'><source bridge='br0'/></interface>
    <interface type='bridge'><source bridge='ovs0'/><virtualport type='openvswitch'/></interface>
    <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
    <interface type='hostdev'><source><address type='pci' domain='0' bus='4' slot='0' function='1'/></source></interface>
    <serial type='pty'><source path='/dev/pts/3'/></serial>
    <serial type='file'><source path='/srv/logs/serial.log'/></serial>
    <serial type='tcp'><source mode='bind' host='192.0.2.7' service='4000'/></serial>
    <channel type='unix'><source mode='connect' path='/run/agent.sock'/></channel>
    <channel type='unix'><source mode='bind' path='/run/libvirt/qemu/channel/1/x'/></channel>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <graphics type='vnc' port='5905' autoport='no'><listen type='address' address='192.0.2.1'/></graphics>
    <graphics type='spice' autoport='yes'><listen type='network' network='console'/></graphics>
    <hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>
      </source></hostdev>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  <seclabel type='dynamic' model='selinux' relabel='yes'/>
  <seclabel type='none' model='apparmor'/>
  <qemu:commandline><qemu:arg value='-x'/></qemu:commandline>
</domain>
"""  # noqa: E501


def test_what_a_vm_needs() -> None:
    found = needs_xml.parse(DOMAIN)
    assert (found.virt_type, found.emulator, found.arch, found.machine) == ("kvm", QEMU, "x86_64", "pc-q35-7.2")
    assert found.cpu_mode == "custom"
    assert "Skylake-Client" in found.cpu_xml
    assert (found.vcpus, found.memory, found.locked) == (4, 4 * GIB, True)
    assert found.hugepages == {2 << 20: 2 * GIB}
    assert found.nodes == {1}
    assert found.pinned == {0, 1, 3, 5, 6}
    assert [(nic.kind, nic.source) for nic in found.nics] == [
        ("network", "lan"), ("bridge", "br0"), ("ovs", "ovs0"), ("device", "eth0"), ("network", "console"),
    ]  # fmt: skip
    assert found.host_devices == (
        "the PCI device 0000:03:00.0", "the USB device 1234:beef", "the PCI network device 0000:04:00.1",
        "the NVMe disk vdb",
    )  # fmt: skip
    assert [unmovable.what for unmovable in found.unmovable] == [
        "the shared directory /srv/share (virtiofs)",
        "the CPU feature invtsc without a fixed TSC frequency",
    ]
    assert {(path.path, path.presence) for path in found.paths} == {
        ("/fw/CODE.fd", Presence.FILE),
        ("/fw/VARS.fd", Presence.FILE),
        ("/srv/share", Presence.FILE),
        ("/srv/logs/serial.log", Presence.PARENT),
        ("/run/agent.sock", Presence.FILE),
        ("/dev/urandom", Presence.FILE),
    }
    assert found.media == (Medium("sda", "/iso/a.iso", optional=True),)
    assert found.tpm == "emulator"
    assert found.listens == (Listen("VNC", "192.0.2.1", 5905), Listen("the serial device", "192.0.2.7", 4000))
    assert found.security == {"selinux"}
    assert found.arguments


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (lambda xml: xml.replace("mode='custom'", "mode='host-passthrough'"), "cpu_mode", "host-passthrough"),
        (lambda xml: xml.replace(" nodeset='0'/>", "/>"), "hugepages", {2 << 20: 4 * GIB}),
        (lambda xml: xml.replace("<page size='2048' unit='KiB' nodeset='0'/>", ""), "hugepages", {0: 4 * GIB}),
        (lambda xml: xml.replace("mode='strict'", "mode='preferred'"), "nodes", frozenset()),
        (lambda xml: xml.replace("<locked/>", ""), "locked", False),
        (lambda xml: xml.replace(" startupPolicy='optional'", ""), "media", (Medium("sda", "/iso/a.iso"),)),
        (lambda xml: xml.replace("type='dynamic'", "type='none'"), "security", frozenset()),
        (lambda xml: xml.replace("qemu:", "").replace("xmlns:qemu", "x"), "arguments", True),
    ],
)  # fmt: skip
def test_what_a_vm_needs_by_other_words(change: Change, field: str, value: Any) -> None:
    changed = change(DOMAIN)
    assert changed != DOMAIN
    assert getattr(needs_xml.parse(changed), field) == value


def test_a_fixed_tsc_frequency_lets_invtsc_move() -> None:
    fixed = DOMAIN.replace("<devices>", "<clock><timer name='tsc' frequency='2500000000'/></clock><devices>")
    assert [unmovable.what for unmovable in needs_xml.parse(fixed).unmovable] == [
        "the shared directory /srv/share (virtiofs)"
    ]


def test_a_vm_of_which_little_is_said() -> None:
    xml = "<domain type='qemu'><name>a</name><memory>65536</memory><os><type machine='pc'>hvm</type></os></domain>"
    assert needs_xml.parse(xml) == VmNeeds("qemu", "", "", "pc", memory=64 << 20)


@given(st.sets(st.integers(0, 300)))
def test_sets_of_numbers(numbers: set[int]) -> None:
    assert needs_xml.numbers(",".join(map(str, sorted(numbers)))) == numbers
    if numbers:
        span = f"0-{max(numbers)}"
        missing = "".join(f",^{one}" for one in range(max(numbers)) if one not in numbers)
        assert needs_xml.numbers(span + missing) == numbers


CAPABILITIES = """\
<capabilities><host><uuid>h</uuid></host>
  <guest><os_type>hvm</os_type><arch name='aarch64'><emulator>/usr/bin/qemu-system-aarch64</emulator>
    <machine>virt-7.2</machine><domain type='qemu'/></arch></guest>
  <guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <machine maxCpus='255'>pc-i440fx-7.2</machine><machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine>
    <domain type='qemu'/><domain type='kvm'><machine canonical='pc-q35-7.2'>q35</machine></domain></arch></guest>
</capabilities>"""

DOMAIN_CAPABILITIES = """\
<domainCapabilities><machine>pc-q35-6.0</machine><vcpu max='288'/>
  <os supported='yes'><loader supported='yes'><value>/fw/CODE.fd</value></loader></os>
  <cpu><mode name='host-passthrough' supported='yes'/>
    <mode name='host-model' supported='yes'><model fallback='forbid'>Haswell</model><vendor>Intel</vendor>
      <feature policy='require' name='vmx'/></mode></cpu>
  <devices><tpm supported='yes'><enum name='backendModel'><value>passthrough</value><value>emulator</value></enum></tpm>
  </devices></domainCapabilities>"""


def test_machine_types_by_their_canonical_names() -> None:
    known = capabilities.machines(CAPABILITIES, "x86_64")
    assert known.machines == {"pc-i440fx-7.2", "pc", "q35", "pc-q35-7.2"}
    assert known.virt_types == {"qemu", "kvm"}
    assert known.emulator == QEMU
    assert capabilities.machines(CAPABILITIES, "s390x").machines == frozenset()


def test_what_an_emulator_can() -> None:
    known = capabilities.machines(CAPABILITIES, "x86_64")
    found = capabilities.with_domain_capabilities(known, DOMAIN_CAPABILITIES)
    assert found.machines == known.machines | {"pc-q35-6.0"}
    assert found.most_cpus == 288
    assert found.tpm_backends == {"passthrough", "emulator"}
    assert found.loaders == {"/fw/CODE.fd"}
    assert "Haswell" in found.host_cpu
    assert "vmx" in found.host_cpu
    without = DOMAIN_CAPABILITIES.replace("<tpm supported='yes'>", "<tpm supported='no'>")
    assert capabilities.with_domain_capabilities(known, without).tpm_backends == frozenset()
    unsaid = DOMAIN_CAPABILITIES.replace("'host-model' supported='yes'", "'host-model' supported='no'")
    assert capabilities.with_domain_capabilities(known, unsaid).host_cpu == ""


@pytest.mark.parametrize("problem", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_a_certificate_that_cannot_be_read_is_no_reason_to_send_in_plain(problem: int) -> None:
    unreadable = replace(GOOD_TLS, destination=(certificate("server-cert.pem", errno=problem),))
    absent = replace(GOOD_TLS, destination=(certificate("server-cert.pem", errno=errno.ENOENT),))
    assert tls_rules.wanted(unreadable, mode="auto", require=False)
    assert not tls_rules.wanted(absent, mode="auto", require=False)
    assert not tls_rules.wanted(unreadable, mode="off", require=False)
    assert [one.code for one in rules.findings(replace(PLAIN, tls=unreadable), replace(GOING, tls=True))] == [
        "TLS_MISSING"
    ]
