# SPDX-License-Identifier: Apache-2.0
"""What a device remembers of its use, and what a list that would block it says."""

from ipaddress import ip_address

import msgspec

from mamplus_host.ble.entry import Kind
from mamplus_host.ble.shadow import Use, shadow
from mamplus_host.events import NO_SLOT, Connect, Exec, File, Head
from mamplus_host.recent import MAX_VALUES, Recent
from mamplus_host.verdicts import Indicator, Verdict

FILE = File(1, 2, 3, 4, 5)
BAD = "b" * 64


def head(verdict: Verdict = Verdict.NOTHING) -> Head:
    return Head(1, 1, 1, 10, 1, 0, NO_SLOT, 0, verdict, "comm")


def started(number: int, verdict: Verdict = Verdict.NOTHING, path: str = "") -> Exec:
    return Exec(head(verdict), FILE, f"{number:064x}", path or f"/bin/{number}")


def called(address: str, port: int = 443) -> Connect:
    return Connect(head(), ip_address(address), port, 6, False)


def values(recent: Recent, kind: Kind) -> list[str]:
    return [use.value for use in recent if use.kind is kind]


def test_the_memory_is_bounded_and_the_least_recently_used_go_first() -> None:
    recent = Recent()
    most = MAX_VALUES[Kind.SHA256]
    for number in range(most):
        recent.note(started(number))
    recent.note(started(0))
    recent.note(started(most))

    kept = values(recent, Kind.SHA256)
    assert (len(kept), kept[0], kept[1]) == (most, f"{most:064x}", f"{0:064x}")
    assert f"{1:064x}" not in kept


def test_what_was_refused_or_suspected_is_not_remembered() -> None:
    recent = Recent()
    for verdict in (Verdict.BLOCK, Verdict.SUSPECT):
        recent.note(started(1, verdict))

    assert len(recent) == 0


def test_what_has_become_suspicious_is_forgotten_with_all_its_ports() -> None:
    recent = Recent()
    for event in (
        started(1),
        called("192.0.2.1"),
        called("192.0.2.1", 80),
        called("192.0.2.10"),
        called("2001:db8::1"),
    ):
        recent.note(event)

    recent.forget(Indicator("ip", "192.0.2.1"))
    recent.forget(Indicator("ip", "2001:db8::1"))
    recent.forget(Indicator("sha256", f"{1:064x}"))

    assert [use.value for use in recent if use.kind is not Kind.PATH] == ["192.0.2.10:443/tcp"]


def test_a_program_named_by_content_and_by_path_is_one_program() -> None:
    recent = Recent()
    recent.note(started(1, path="/opt/a"))
    recent.note(started(2, path="relative/b"))

    said = shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.BLOCK, recent, [])

    assert (said.programs, said.destinations, said.asked) == (2, 0, 3)


def test_one_program_with_many_destinations_is_one() -> None:
    uses = [Use(Kind.IP, f"198.51.100.{n}:443/udp", "/tmp/evil") for n in range(100)]

    said = shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.BLOCK, uses, [])

    assert (said.destinations, said.count) == (100, 1)
    assert not said.is_too_much(1)


def test_an_account_counts_by_the_programs_that_run_under_it() -> None:
    recent = Recent()
    recent.sample(Use(Kind.GROUP, "users", f"/usr/bin/{n}") for n in range(7))

    said = shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.BLOCK, recent, [])

    assert (said.programs, said.count) == (7, 7)


def test_a_path_that_is_no_unicode_can_be_told() -> None:
    uses = [Use(Kind.SHA256, BAD, "/opt/\udcff")]

    said = shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.BLOCK, uses, [])

    assert msgspec.json.encode(said)


def test_lifelines_are_counted_apart_and_shown_first() -> None:
    vital = [Use(Kind.IP, "192.0.2.53:53/udp", "name server")]
    uses = [Use(Kind.SHA256, BAD, "/bin/x"), *vital]

    said = shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.BLOCK, uses, vital)

    assert (said.lifelines, said.programs, said.destinations, said.asked) == (1, 1, 0, 2)
    assert [one.is_lifeline for one in said.examples] == [True, False]
    assert said.is_too_much(1000)
    assert "1 lifeline, 1 program of 2 in use" in said.in_words()


def test_a_hold_names_what_would_be_blocked() -> None:
    vital = [Use(Kind.IP, "192.0.2.53:53/udp", "name server")]
    uses = [Use(Kind.IP, f"198.51.100.{n}") for n in range(1, 5)]

    said = shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.BLOCK, uses, vital)

    assert said.why_held(5) == (
        "it would newly block 1 lifeline, 4 destinations of 5 in use: ip 192.0.2.53:53/udp (name server),"
        " ip 198.51.100.1, ip 198.51.100.2 and 2 more; the policy lets 5 pass, and never a lifeline"
    )


def test_what_was_blocked_before_and_what_is_only_suspected_is_not_newly_blocked() -> None:
    uses = [Use(Kind.SHA256, BAD, "/bin/x")]

    assert shadow(lambda _k, _v: Verdict.BLOCK, lambda _k, _v: Verdict.BLOCK, uses, []).count == 0
    assert shadow(lambda _k, _v: Verdict.NOTHING, lambda _k, _v: Verdict.SUSPECT, uses, []).count == 0
    assert shadow(lambda _k, _v: Verdict.ALLOW, lambda _k, _v: Verdict.BLOCK, uses, []).count == 1
