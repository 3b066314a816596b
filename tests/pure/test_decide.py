# SPDX-License-Identifier: Apache-2.0
"""The analyzer's answers, event by event."""

from ipaddress import ip_address

import msgspec
import pytest

from mamplus_host.analyzer.decide import RULE_DROPPED, RULE_GUARDED, RULE_UNKNOWN, Facts, asks_for_parent, decide
from mamplus_host.analyzer.verify import Answer
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.events import NO_SLOT, Connect, DnsQuery, Exec, Exit, File, FileAccess, FileChange, Head, Packet
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Finding, Indicator, Severity, Verdict

DIGEST = "ab" * 32
HEAD = Head(1, 2, 3, 100, 99, 0, NO_SLOT, 0, Verdict.NOTHING, "comm")
FACTS = Facts(alert_id="A")
ENTRY = Entry(
    id=7, kind=Kind.SHA256, value=DIGEST, verdict=Verdict.BLOCK, severity=Severity.CRITICAL, reason="known bad"
)


def head(**changes: object) -> Head:
    return msgspec.structs.replace(HEAD, **changes)


def program(*, sha256: str = DIGEST, **changes: object) -> Exec:
    return Exec(head(**changes), File(1, 2, 3, 4, 5), sha256, "/tmp/x")


def test_a_program_that_the_kernel_refused_is_confirmed_and_names_its_entry() -> None:
    event = program(verdict=Verdict.BLOCK, flags=layout.F_REFUSED)

    decision = decide(event, Facts(alert_id="A", entry=ENTRY))

    assert (decision.finding, decision.entry_id, decision.in_kernel) == (Finding.CONFIRMED, 7, True)
    assert decision.indicator == Indicator("sha256", DIGEST)
    assert "known bad" in decision.reason
    assert decision.severity is Severity.CRITICAL


def access(*, sha256: str = DIGEST, op: str = "open", **changes: object) -> FileAccess:
    return FileAccess(head(**changes), File(1, 2, 3, 4, 5), sha256, op, "/tmp/x")


def test_a_listed_file_that_was_not_opened_is_confirmed_and_names_its_entry() -> None:
    decision = decide(access(verdict=Verdict.BLOCK, flags=layout.F_REFUSED), Facts(alert_id="A", entry=ENTRY))

    assert (decision.finding, decision.entry_id, decision.in_kernel) == (Finding.CONFIRMED, 7, True)
    assert decision.indicator == Indicator("sha256", DIGEST)


@pytest.mark.parametrize("flag", [layout.F_REFUSED, layout.F_MONITOR], ids=["refused", "monitor"])
def test_a_refusal_without_a_word_of_the_list_is_that_of_a_guarded_file(flag: int) -> None:
    decision = decide(access(sha256="", op="unlink", flags=flag), FACTS)

    assert (decision.finding, decision.rule) == (Finding.CONFIRMED, RULE_GUARDED)
    assert "unlink of '/tmp/x' by 'comm' (pid 100)" in decision.reason


def test_a_file_that_lies_too_deep_for_the_kernel_is_told_as_guarded_by_declaration() -> None:
    decision = decide(access(sha256="", op="write", flags=layout.F_REFUSED | layout.F_DECLARED), FACTS)

    assert (decision.finding, decision.rule) == (Finding.CONFIRMED, RULE_GUARDED)
    assert "where it lies cannot be told" in decision.reason


NOT_IDENTIFIED = layout.F_DECLARED | layout.F_UNKNOWN


def test_a_refused_access_to_what_could_not_be_identified_is_suspected() -> None:
    decision = decide(access(sha256="", flags=layout.F_REFUSED | NOT_IDENTIFIED), FACTS)

    assert (decision.finding, decision.rule) == (Finding.SUSPECTED, RULE_UNKNOWN)


def test_an_access_to_what_could_not_be_identified_is_no_guarded_file_in_monitor_mode() -> None:
    assert decide(access(sha256="", flags=layout.F_MONITOR | NOT_IDENTIFIED), FACTS).finding is Finding.NOTHING


def test_an_access_that_was_let_through_without_a_word_is_nothing() -> None:
    assert decide(access(flags=layout.F_DECLARED), FACTS).finding is Finding.NOTHING


def test_a_block_in_monitor_mode_is_confirmed_but_not_in_kernel() -> None:
    decision = decide(program(verdict=Verdict.BLOCK, flags=layout.F_MONITOR), FACTS)

    assert (decision.finding, decision.in_kernel) == (Finding.CONFIRMED, False)


def test_a_suspect_entry_is_suspected_not_confirmed() -> None:
    assert decide(program(verdict=Verdict.SUSPECT), FACTS).finding is Finding.SUSPECTED


def test_a_dropped_program_of_a_networking_parent_is_suspected() -> None:
    event = program(flags=layout.F_WORLD_WRITABLE)

    decision = decide(event, Facts(alert_id="A", parent_sockets=1))

    assert (decision.finding, decision.rule) == (Finding.SUSPECTED, RULE_DROPPED)


def test_a_dropped_program_of_a_parent_without_network_is_nothing() -> None:
    assert decide(program(flags=layout.F_WORLD_WRITABLE), FACTS).finding is Finding.NOTHING


def test_an_allow_entry_silences_the_local_rule() -> None:
    event = program(flags=layout.F_WORLD_WRITABLE)
    answer = Answer(Verdict.ALLOW, ENTRY, 3)

    assert decide(event, Facts(alert_id="A", parent_sockets=1, answer=answer)).finding is Finding.NOTHING


def test_the_local_rule_waits_until_the_file_is_hashed() -> None:
    assert not asks_for_parent(program(sha256="", flags=layout.F_WORLD_WRITABLE | layout.F_UNKNOWN))


def test_an_unknown_file_refused_by_the_declared_answer_is_suspected_without_an_indicator() -> None:
    event = program(sha256="", flags=layout.F_DECLARED | layout.F_REFUSED | layout.F_UNKNOWN)

    decision = decide(event, FACTS)

    assert (decision.finding, decision.rule, decision.indicator) == (Finding.SUSPECTED, RULE_UNKNOWN, None)


@pytest.mark.parametrize(
    ("event", "indicator"),
    [
        (Connect(head(verdict=Verdict.BLOCK), ip_address("203.0.113.7"), 80, 6, False), Indicator("ip", "203.0.113.7")),
        (
            DnsQuery(head(verdict=Verdict.BLOCK), ip_address("192.0.2.1"), "bad.example"),
            Indicator("domain", "bad.example"),
        ),
        (
            Packet(head(verdict=Verdict.BLOCK), ip_address("10.0.0.1"), ip_address("203.0.113.7"), 1, 2, 6),
            Indicator("ip", "203.0.113.7"),
        ),
        (
            Packet(
                head(verdict=Verdict.BLOCK, flags=layout.F_INGRESS),
                ip_address("203.0.113.7"),
                ip_address("10.0.0.1"),
                1,
                2,
                6,
            ),
            Indicator("ip", "203.0.113.7"),
        ),
    ],
    ids=["connect", "dns", "packet-out", "packet-in"],
)
def test_a_refused_network_event_names_the_remote_end(event: Connect | DnsQuery | Packet, indicator: Indicator) -> None:
    decision = decide(event, FACTS)

    assert (decision.finding, decision.indicator) == (Finding.CONFIRMED, indicator)


def test_a_touched_protected_file_names_its_writer() -> None:
    decision = decide(FileChange(1, "/etc/app.conf", ("modify",), 55), Facts(alert_id="A", writer="'/bin/rm' (pid 55)"))

    assert decision.finding is Finding.CONFIRMED
    assert "/bin/rm" in decision.reason


def test_an_exit_is_nothing() -> None:
    decision = decide(Exit(HEAD, 9), FACTS)

    assert (decision.finding, decision.id) == (Finding.NOTHING, "")
