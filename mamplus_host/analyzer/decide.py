# SPDX-License-Identifier: Apache-2.0
"""One event and its facts in, one decision out: confirmed, suspected or nothing.

Journey: collector -> [analyzer] -> executor.

Pure: no clock, no file, no kernel. What the kernel decided is believed and explained; what
it could not decide is asked of the BLE (`verify`) and of the local rules below.
"""

import msgspec

from mamplus_host.analyzer.tampering import reason_of, severity_of
from mamplus_host.analyzer.verify import Answer
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.events import (
    Connect,
    DnsQuery,
    Event,
    Exec,
    FileAccess,
    FileChange,
    FileEvent,
    MassRewrite,
    Packet,
    Tamper,
)
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Decision, Finding, Indicator, Severity, Verdict

_OF_A_START = (Kind.PATH, Kind.USER, Kind.GROUP)  # kinds that say nothing of the program's content
_ACCOUNTS = (Kind.USER, Kind.GROUP)
RULE_BLE = "ble"
RULE_UNKNOWN = "unknown-file"
RULE_DROPPED = "world-writable-by-network-parent"
RULE_PROTECTED = "protected-file"
RULE_MASS = "mass-rewrite"
RULE_GUARDED = "guarded-file"
RULE_TAMPER = "tamper"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision may rest on besides the event."""

    alert_id: str  # used when there is something to tell
    answer: Answer | None = None  # of the BLE about the event's indicator; None: not asked
    here: Answer | None = None  # of the BLE about what the kernel does not ask: path, user, group
    entry: Entry | None = None  # the entry behind the kernel's verdict, when its generation is still there
    parent_sockets: int = 0  # internet sockets that the nearest ancestors hold
    writer: str = ""  # FileChange: who it was, for people
    is_expected: bool = False  # Tamper: a maintenance window is open, or it was the agent's own doing


def decide(event: Event, facts: Facts) -> Decision:
    """Return the answer to `event`; finding NOTHING has no id and needs no action."""
    if isinstance(event, FileChange):
        return _file(event, facts)
    if isinstance(event, MassRewrite):
        return _mass(event, facts)
    if isinstance(event, Exec):
        return _exec(event, facts)
    if isinstance(event, FileAccess):
        return _access(event, facts)
    if isinstance(event, Connect | Packet | DnsQuery):
        return _network(event, facts)
    if isinstance(event, Tamper):
        return _tamper(event, facts)
    return _nothing(event)


def indicator(event: Event) -> Indicator | None:
    """Return the value that a BLE entry would name to decide `event`, or None."""
    if isinstance(event, Exec | FileAccess) and event.sha256:
        return Indicator("sha256", event.sha256)
    if isinstance(event, Connect):
        return Indicator("ip", str(event.address))
    if isinstance(event, Packet):
        inwards = event.head.flags & layout.F_INGRESS
        return Indicator("ip", str(event.source if inwards else event.destination))
    if isinstance(event, DnsQuery):
        return Indicator("domain", event.name)
    return None


def asks_here(event: Exec) -> bool:
    """Say whether the list is to be asked in user space, too: not of what the kernel refused or allowed, nor twice.

    A start that waits is asked about when its answer comes: by then its content is known, and may be allowed.
    """
    waits = event.head.flags & layout.F_HELD and not event.held
    return not waits and event.head.verdict in (Verdict.NOTHING, Verdict.SUSPECT)


def asks_for_parent(event: Event) -> bool:
    """Say whether the decision rests on the sockets of the event's ancestors."""
    return isinstance(event, Exec) and bool(event.sha256) and bool(event.head.flags & layout.F_WORLD_WRITABLE)


def _exec(event: Exec, facts: Facts) -> Decision:
    found = _unidentified(event, facts) or _by_list(event, facts)
    if found is not None:
        return found
    answers = [answer.verdict for answer in (facts.answer, facts.here) if answer]
    allowed = Verdict.ALLOW in (event.head.verdict, *answers)
    if asks_for_parent(event) and facts.parent_sockets and not allowed:
        reason = f"{event.path!r} lies in a world-writable directory and was started by a program that uses the network"
        return _found(event, facts, Finding.SUSPECTED, RULE_DROPPED, reason, Severity.HIGH)
    return _nothing(event)


def _unidentified(event: Exec | FileAccess, facts: Facts) -> Decision | None:
    flags = event.head.flags
    if not (flags & layout.F_DECLARED and flags & layout.F_REFUSED) or event.head.verdict is Verdict.BLOCK:
        return None
    reason = f"{event.path!r} could not be identified; the declared answer for unknown files is to refuse"
    return _found(event, facts, Finding.SUSPECTED, RULE_UNKNOWN, reason, Severity.MEDIUM)


def _access(event: FileAccess, facts: Facts) -> Decision:
    """What the kernel refused is told, whether the list said so or the file is guarded by its place."""
    flags = event.head.flags
    if flags & layout.F_UNKNOWN:  # its content was asked for, and could not be had; its place was not
        return _unidentified(event, facts) or _nothing(event)
    found = _by_list(event, facts)
    if found is not None:
        return found
    if not flags & (layout.F_REFUSED | layout.F_MONITOR):
        return _nothing(event)
    why = "where it lies cannot be told, so every rule holds" if flags & layout.F_DECLARED else "the file is guarded"
    reason = f"{event.op} of {event.path!r} by {event.head.comm!r} (pid {event.head.tgid}): {why}"
    return _found(event, facts, Finding.CONFIRMED, RULE_GUARDED, reason, Severity.HIGH)


def _network(event: Connect | Packet | DnsQuery, facts: Facts) -> Decision:
    return _by_list(event, facts) or _nothing(event)


def _by_list(event: Exec | FileAccess | Connect | Packet | DnsQuery, facts: Facts) -> Decision | None:
    """What the BLE says, as asked by the kernel, or by us for an event that the kernel only reported."""
    verdict = event.head.verdict
    entry = facts.entry
    if verdict is Verdict.NOTHING and facts.answer is not None:
        verdict, entry = facts.answer.verdict, facts.answer.entry
    if facts.here is not None and facts.here.verdict > verdict and verdict <= Verdict.SUSPECT:
        verdict, entry = facts.here.verdict, facts.here.entry
    finding = {Verdict.BLOCK: Finding.CONFIRMED, Verdict.SUSPECT: Finding.SUSPECTED}.get(verdict)
    if finding is None:
        return None
    severity = entry.severity if entry else Severity.HIGH
    return _found(event, facts, finding, RULE_BLE, _list_reason(event, entry), severity, entry)


def _list_reason(event: Event, entry: Entry | None) -> str:
    named = indicator(event)
    what = f"{named.kind} {named.value}" if named else "this"
    if entry is None:
        return f"{what} is on the list"
    if isinstance(event, Exec) and entry.kind in _OF_A_START:
        what = f"{event.path!r}, started by uid {event.head.uid},"
    via = "" if named and entry.value == named.value else f" through {entry.kind.name.lower()} {entry.value}"
    return f"{what} is on the list{via}" + (f": {entry.reason}" if entry.reason else "")


def _file(event: FileChange, facts: Facts) -> Decision:
    by = f" by {facts.writer}" if facts.writer else ""
    reason = f"protected file {event.path!r} was touched ({', '.join(event.changes)}){by}"
    return _found(event, facts, Finding.CONFIRMED, RULE_PROTECTED, reason, Severity.HIGH)


def _mass(event: MassRewrite, facts: Facts) -> Decision:
    by = f" by {facts.writer}" if facts.writer else ""
    looks = f"; {event.scrambled} of the first look encrypted now" if event.scrambled else ""
    reason = f"{len(event.paths)} protected files were rewritten within a short time{by}: {event.stopped}{looks}"
    return _found(event, facts, Finding.CONFIRMED, RULE_MASS, reason, Severity.CRITICAL)


def _tamper(event: Tamper, facts: Facts) -> Decision:
    if facts.is_expected:
        return _nothing(event)
    return _found(event, facts, Finding.CONFIRMED, RULE_TAMPER, reason_of(event), severity_of(event))


def _found(
    event: Event, facts: Facts, finding: Finding, rule: str, reason: str, severity: Severity, entry: Entry | None = None
) -> Decision:
    head = None if isinstance(event, FileEvent) else event.head
    named = indicator(event)
    if entry is not None and (entry.kind in _ACCOUNTS or (named is None and entry.kind in _OF_A_START)):
        named = Indicator(entry.kind.name.lower(), entry.value)  # not the program: any other would have done as well
    return Decision(
        id=facts.alert_id, finding=finding, event=event, rule=rule, reason=reason, severity=severity,
        generation=head.generation if head else 0, entry_id=entry.id if entry else 0,
        in_kernel=bool(head and head.flags & layout.F_REFUSED), indicator=named,
    )  # fmt: skip


def _nothing(event: Event) -> Decision:
    return Decision(id="", finding=Finding.NOTHING, event=event, rule="", reason="")
