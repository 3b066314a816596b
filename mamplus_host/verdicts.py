# SPDX-License-Identifier: Apache-2.0
"""What the BLE and the analyzer can say, and which word wins.

The numbers of `Verdict` are those of `enum mamplus_verdict` in `mamplus_events.h`
(checked by a test); the greater wins: guard > allow > block > suspect > nothing.
"""

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from mamplus_host.events import Event


class Verdict(IntEnum):
    """What an entry says about a value."""

    NOTHING = 0
    SUSPECT = 1
    BLOCK = 2
    ALLOW = 3
    GUARD = 4


class Finding(StrEnum):
    """The analyzer's three answers, never two."""

    CONFIRMED = "confirmed"
    SUSPECTED = "suspected"
    NOTHING = "nothing"


class Severity(IntEnum):
    """OCSF `severity_id`."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The analyzer's answer to one event: what it is, why, and who said so."""

    id: str  # of the alert: 26 characters, sorts by time; "" for nothing
    finding: Finding
    event: "Event"
    rule: str  # "ble" or the name of the local rule
    reason: str  # one sentence for people
    severity: Severity = Severity.INFORMATIONAL
    generation: int = 0
    entry_id: int = 0  # of the BLE entry that decided; 0: none
    in_kernel: bool = False  # refused before it happened, or at least before its first instruction
    indicator: "Indicator | None" = None  # what the administrator would put on the list


class Indicator(msgspec.Struct, frozen=True):
    """A value that a BLE entry could name."""

    kind: str  # of ble.entry.Kind, lower case
    value: str  # canonical


class ActionKind(StrEnum):
    """What the executor can do; each has an inverse or says that it has none. One deed each: `executor/deeds.py`."""

    REFUSED = "refused"  # already done by the kernel; nothing to undo
    NOTIFY = "notify"  # tells the user why, and how to ask for an exception
    EVIDENCE = "evidence"  # a snapshot, sealed; inverse: deleted
    FREEZE = "freeze"  # inverse: thaw
    CUT = "cut"  # open connections; no inverse
    REFUSE = "refuse"  # an app, a host, or all but the enterprise; inverse: let through again
    KILL = "kill"  # one process, or all that is held; no inverse
    KILL_TREE = "kill-tree"  # with all that it started; no inverse
    KILL_CGROUP = "kill-cgroup"  # the whole app; no inverse
    RESTORE = "restore"  # inverse: the replaced content, kept in the vault as a version
    QUARANTINE = "quarantine"  # inverse: the file is back, bit for bit
    LOCK = "lock"  # sessions; no inverse: the password opens them
    RADIO = "radio"  # off; inverse: as it was
    USB = "usb"  # a device's authorization; inverse: as it was
    MOUNT = "mount"  # a file system's options; inverse: as they were
    ISOLATE = "isolate"  # from all but the lifeline; inverse: back on the network
    CONTAINER_LOCK = "container-lock"  # the professional container; no inverse: its passphrase opens it
    WIPE = "wipe"  # of professional data; no inverse


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the executor did about a decision."""

    decision_id: str
    action: ActionKind
    state: str  # done, failed, undone, begun (it takes long), dry-run (monitor mode)
    detail: str = ""  # what exactly, or why it failed
    took_ns: int = 0  # from the event to the action's end; 0: not measured


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """What goes to the enterprise (`Send_alert`); docs/protocol.md shows it on the wire."""

    id: str  # the decision's
    kind: str  # exec, connect, sendmsg, packet, dns, file
    finding: Finding
    severity: Severity
    at: float  # seconds since the epoch, by the device's clock
    boot_ns: int
    generation: int
    rule: str
    summary: str
    indicator: Indicator | None = None
    evidence: dict[str, Any] = {}  # ancestry, sockets, file, ...: plain JSON values
    actions: list[dict[str, str]] = []  # {"action": ..., "state": ..., "detail": ...}
