"""The networks, bridges and devices of a host that a domain's XML names: reading the names, and replacing them.

https://libvirt.org/formatdomain.html#network-interfaces. Of a running VM libvirt shows the bridge or device that its
network stands for, with the network's name beside it (`<source network='lan' bridge='br0'/>`, type bridge).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lxml import etree

from blockferry.hosts.libvirt import xml_paths
from blockferry.hosts.vm_needs import Nic

_ATTRIBUTES = {"network": "network", "bridge": "bridge", "direct": "dev"}
"""Type of an interface -> attribute of its source that names something of the host."""


@dataclass(frozen=True, slots=True)
class _Place:
    """An attribute that names a network, bridge or device. `interface`: None for the listen address of a console."""

    element: etree._Element
    attribute: str
    interface: etree._Element | None = None

    @property
    def name(self) -> str:
        return self.element.get(self.attribute, "")

    @property
    def network(self) -> str:
        """The network that libvirt has resolved to this bridge or device; "" for none."""
        return "" if self.attribute == "network" else self.element.get("network", "")

    def set_name(self, name: str) -> None:
        self.element.set(self.attribute, name)
        if self.attribute == "network" and "bridge" in self.element.attrib:
            del self.element.attrib["bridge"]  # what the network stood for at the source; libvirt does not read it

    def set_network(self, name: str) -> None:
        """Name the network again instead of what it stood for at the source."""
        assert self.interface is not None
        self.interface.set("type", "network")
        for attribute in ("bridge", "dev", "mode"):
            if attribute in self.element.attrib:
                del self.element.attrib[attribute]
        self.element.set("network", name)


def nics(root: etree._Element) -> Iterator[Nic]:
    """Yield what the domain needs: of each interface, and of each console that listens at a network's address."""
    for place in _places(root):
        interface = place.interface
        if interface is None:
            above = place.element.getparent()
            assert above is not None
            yield Nic("network", place.name, above.get("type", "").upper())
            continue
        mac, port = interface.find("mac"), interface.find("./virtualport")
        what = "a network interface" if mac is None else f"the network interface {mac.get('address')}"
        kind = {"network": "network", "bridge": "bridge", "dev": "device"}[place.attribute]
        if kind == "bridge" and port is not None and port.get("type") == "openvswitch":
            kind = "ovs"
        yield Nic(kind, place.name, what, place.network)


def names(xml: str) -> tuple[str, ...]:
    """Return the names of networks, bridges and devices in the order of the XML: what `put_names` puts back."""
    return tuple(place.name for place in _places(xml_paths.parse(xml)))


def rename(xml: str, networks: Mapping[str, str]) -> str:
    """Return the XML with these networks, bridges and devices under their new names, and nothing else changed.

    A bridge or device that stands for a network of `networks` becomes that network: the destination's has its own.
    """
    if not networks:
        return xml
    root = xml_paths.parse(xml)
    for place in _places(root):
        if place.network in networks:
            place.set_network(networks[place.network])
        elif place.name in networks:
            place.set_name(networks[place.name])
    return etree.tostring(root, encoding="unicode")


def put_names(xml: str, wanted: Sequence[str]) -> str:
    """Return the XML with these names in its order; as it is where it has another number of them."""
    root = xml_paths.parse(xml)
    places = list(_places(root))
    if len(places) != len(wanted):
        return xml
    for place, name in zip(places, wanted, strict=True):
        if place.name != name:
            place.set_name(name)
    return etree.tostring(root, encoding="unicode")


def _places(root: etree._Element) -> Iterator[_Place]:
    for interface in root.iterfind("./devices/interface"):
        source = interface.find("source")
        attribute = _ATTRIBUTES.get(interface.get("type", ""))
        if source is not None and attribute is not None and source.get(attribute):
            yield _Place(source, attribute, interface)
    for listen in root.iterfind("./devices/graphics/listen[@type='network']"):
        if listen.get("network"):
            yield _Place(listen, "network")
