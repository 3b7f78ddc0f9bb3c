"""The errors a user can meet: each a class with a code, a sentence, a hint and an exit status.

The facts are fields; `sentence` says what happened to what and what still holds, `hint` what to do next.
`blockferry explain CODE` prints the class's docstring, and docs/errors.md is generated from here, so a
docstring is written for the administrator who has just met the error.
"""

from __future__ import annotations

from blockferry.base.errors.error import BlockferryError, all_errors, nearest
from blockferry.base.errors.file_errors import FileExists, ImageUnreadable, NotInQuarantine, NotRestorable, StillInUse
from blockferry.base.errors.host_errors import (
    HelperEnded,
    HostCallFailed,
    HostCommandFailed,
    HostUnreachable,
    LibvirtFailed,
    MoveNotHeld,
    NoAnswer,
    OutcomeUnknown,
    PermissionRefused,
    Unhealthy,
)
from blockferry.base.errors.journal_errors import (
    DestinationTaken,
    JournalFailed,
    KeptTaken,
    LeaseLost,
    MoveBusy,
    OtherHost,
    RoomTaken,
)
from blockferry.base.errors.move_errors import (
    CloneFailed,
    CopyDiffers,
    CopyIncomplete,
    DestinationFenced,
    DestinationGone,
    Interrupted,
    LostVmUnreachable,
    MoveCancelled,
    MoveFailed,
    MoveParked,
    NotVerified,
    Refused,
    StillSaved,
    TooLateToCancel,
    WaitTimedOut,
)
from blockferry.base.errors.request_errors import (
    CodeNotFound,
    ConfigInvalid,
    DatastoreNotFound,
    DiskNotFound,
    HostNotConfigured,
    MoveNotFound,
    UsageError,
    VmAmbiguous,
    VmNotFound,
)
from blockferry.base.errors.tracking_errors import (
    NotTrackable,
    PointNotFound,
    TooManyPoints,
    TrackingBusy,
    TrackingLost,
)

__all__ = [
    "BlockferryError",
    "CloneFailed",
    "CodeNotFound",
    "ConfigInvalid",
    "CopyDiffers",
    "CopyIncomplete",
    "DatastoreNotFound",
    "DestinationFenced",
    "DestinationGone",
    "DestinationTaken",
    "DiskNotFound",
    "FileExists",
    "HelperEnded",
    "HostCallFailed",
    "HostCommandFailed",
    "HostNotConfigured",
    "HostUnreachable",
    "ImageUnreadable",
    "Interrupted",
    "JournalFailed",
    "KeptTaken",
    "LeaseLost",
    "LibvirtFailed",
    "LostVmUnreachable",
    "MoveBusy",
    "MoveCancelled",
    "MoveFailed",
    "MoveNotFound",
    "MoveNotHeld",
    "MoveParked",
    "NoAnswer",
    "NotInQuarantine",
    "NotRestorable",
    "NotTrackable",
    "NotVerified",
    "OtherHost",
    "OutcomeUnknown",
    "PermissionRefused",
    "PointNotFound",
    "Refused",
    "RoomTaken",
    "StillInUse",
    "StillSaved",
    "TooLateToCancel",
    "TooManyPoints",
    "TrackingBusy",
    "TrackingLost",
    "Unhealthy",
    "UsageError",
    "VmAmbiguous",
    "VmNotFound",
    "WaitTimedOut",
    "all_errors",
    "nearest",
]
