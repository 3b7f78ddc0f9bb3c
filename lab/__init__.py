"""Real libvirt hosts, guests and storage on one machine, and the judge that proves no write was lost.

Imports nothing of blockferry: a judge shares no code with the accused. See lab/README.md.
"""

from lab.checker import Finding, Verdict
from lab.datastores import Datastore
from lab.errors import GuestRefused, GuestSilent, LabError
from lab.guests import Disk, Guest
from lab.hosts import Host
from lab.judge import FLAT_OUT, Judge, LiveVerdict
from lab.lab import Lab

__all__ = [
    "FLAT_OUT",
    "Datastore",
    "Disk",
    "Finding",
    "Guest",
    "GuestRefused",
    "GuestSilent",
    "Host",
    "Judge",
    "Lab",
    "LabError",
    "LiveVerdict",
    "Verdict",
]
