"""Networks that have another name at the destination: recorded XML of libvirt 9.0, before and after."""

from __future__ import annotations

import difflib

import pytest

from blockferry.base.config import Config
from blockferry.base.errors import UsageError
from blockferry.client import any_request
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.hosts.libvirt import interface_xml, needs_xml
from blockferry.hosts.vm_needs import Nic

CONFIG = """\
<domain type='kvm'>
  <name>web01</name>
  <memory unit='KiB'>65536</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='lan' portgroup='sales'/>
      <bandwidth><inbound average='1000'/></bandwidth>
      <model type='virtio'/>
      <filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.7'/></filterref>
      <link state='up'/>
      <mtu size='9000'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:00:00:02'/>
      <source network='san'/>
      <model type='virtio'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:03'/>
      <source bridge='ovsbr0'/>
      <vlan><tag id='42'/></vlan>
      <virtualport type='openvswitch'><parameters interfaceid='d1b3e5a0-0000-4000-8000-000000000001'/></virtualport>
      <target dev='web01-3'/>
      <model type='e1000e'/>
    </interface>
    <interface type='direct'>
      <mac address='52:54:00:00:00:04'/>
      <source dev='eno1' mode='bridge'/>
      <model type='virtio'/>
    </interface>
    <interface type='user'><mac address='52:54:00:00:00:05'/></interface>
    <graphics type='vnc' port='-1' autoport='yes'><listen type='network' network='lan'/></graphics>
  </devices>
</domain>
"""
LIVE = CONFIG.replace(
    "<interface type='network'>\n      <mac address='52:54:00:00:00:02'/>\n      <source network='san'/>",
    "<interface type='bridge'>\n      <mac address='52:54:00:00:00:02'/>\n"
    "      <source network='san' portid='d1b3e5a0-0000-4000-8000-000000000002' bridge='br-san'/>",
).replace("<source network='lan' portgroup='sales'/>", "<source network='lan' portgroup='sales' bridge='virbr1'/>")
EVERY = {"lan": "dmz", "san": "storage", "ovsbr0": "ovsbr7", "eno1": "enp3s0"}


def changes(before: str, after: str) -> list[str]:
    """The lines that differ, without their indentation; quotes as libvirt writes them."""
    old, new = (text.replace('"', "'").splitlines() for text in (before, after))
    return [line[0] + line[1:].strip() for line in difflib.ndiff(old, new) if line[0] in "+-"]


def test_only_the_names_change_in_the_configuration() -> None:
    assert sorted(changes(CONFIG, interface_xml.rename(CONFIG, EVERY))) == sorted([
        "-<source network='lan' portgroup='sales'/>", "+<source network='dmz' portgroup='sales'/>",
        "-<source network='san'/>", "+<source network='storage'/>",
        "-<source bridge='ovsbr0'/>", "+<source bridge='ovsbr7'/>",
        "-<source dev='eno1' mode='bridge'/>", "+<source dev='enp3s0' mode='bridge'/>",
        "-<graphics type='vnc' port='-1' autoport='yes'><listen type='network' network='lan'/></graphics>",
        "+<graphics type='vnc' port='-1' autoport='yes'><listen type='network' network='dmz'/></graphics>",
    ])  # fmt: skip


def test_a_bridge_that_stands_for_a_network_becomes_the_network_again() -> None:
    """Of a running VM libvirt shows the bridge; the network of the other name has its own at the destination."""
    renamed = interface_xml.rename(LIVE, {"san": "storage"})
    assert sorted(changes(LIVE, renamed)) == sorted([
        "-<interface type='bridge'>", "+<interface type='network'>",
        "-<source network='san' portid='d1b3e5a0-0000-4000-8000-000000000002' bridge='br-san'/>",
        "+<source network='storage' portid='d1b3e5a0-0000-4000-8000-000000000002'/>",
    ])  # fmt: skip
    by_bridge = interface_xml.rename(LIVE, {"br-san": "br7"})
    assert sorted(changes(LIVE, by_bridge)) == sorted([
        "-<source network='san' portid='d1b3e5a0-0000-4000-8000-000000000002' bridge='br-san'/>",
        "+<source network='san' portid='d1b3e5a0-0000-4000-8000-000000000002' bridge='br7'/>",
    ])  # fmt: skip


def test_the_old_bridge_of_a_network_is_not_sent_along() -> None:
    assert "bridge='virbr1'" not in interface_xml.rename(LIVE, {"lan": "dmz"}).replace('"', "'")


@pytest.mark.parametrize("networks", [EVERY, {"lan": "san", "san": "lan"}, {"lan": "san"}])
def test_the_names_go_back(networks: dict[str, str]) -> None:
    """Also where two networks become the same one, or change places."""
    there = interface_xml.rename(CONFIG, networks)
    assert changes(CONFIG, interface_xml.put_names(there, interface_xml.names(CONFIG))) == []


def test_what_a_running_vm_needs_now_and_at_its_next_start() -> None:
    needs = needs_xml.with_networks_of(needs_xml.parse(LIVE), CONFIG)
    assert [(nic.kind, nic.source, nic.network) for nic in needs.nics] == [
        ("network", "lan", ""), ("bridge", "br-san", "san"), ("ovs", "ovsbr0", ""), ("device", "eno1", ""),
        ("network", "lan", ""), ("network", "san", ""),
    ]  # fmt: skip
    assert needs.filters == {"clean-traffic"}


def test_a_mapped_network_counts_before_its_bridge() -> None:
    nic = Nic("bridge", "br-san", "", "san")
    assert nic.at({"san": "storage", "br-san": "br7"}) == ("network", "storage", "san")
    assert nic.at({"br-san": "br7"}) == ("bridge", "br7", "br-san")
    assert nic.at({}) == ("bridge", "br-san", "br-san")


def test_as_an_option_of_the_api() -> None:
    request = any_request("web01", {"to_host": "kvm2", "map_network": {"lan": "dmz", "san": "san"}}, Config())
    assert isinstance(request, HostMoveRequest)
    assert request.networks == {"lan": "dmz"}
    with pytest.raises(UsageError, match="--map-network goes only with --to-host"):
        any_request("web01", {"to": "ssd", "map_network": {"lan": "dmz"}}, Config())
    with pytest.raises(UsageError, match="--map-network"):
        any_request("web01", {"to_host": "kvm2", "map_network": {"lan": ""}}, Config())
