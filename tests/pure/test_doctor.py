# SPDX-License-Identifier: Apache-2.0
"""When controls are tried again, what has become worse, what is kept, told and reported; no kernel is asked."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.stack import Stack
from mamplus_host.clock import DeviceClock
from mamplus_host.config import Agent, Config, Paths
from mamplus_host.doctor import kept
from mamplus_host.doctor.canaries import MAX_EACH, blocked
from mamplus_host.doctor.contents import interpreter_of
from mamplus_host.doctor.examiner import Examiner
from mamplus_host.doctor.kept import Kept, Situation
from mamplus_host.doctor.place import way_to_lsm
from mamplus_host.doctor.trial import MAX_DETAIL_CHARS, Found, NotEnforced, State, Trial, tried, worst
from mamplus_host.errors import NotPossible
from mamplus_host.verdicts import Escalation, Severity, Verdict

HOUR_NS = 3600 * 1_000_000_000
NOW = Situation(boot_id="boot 1", kernel="6.12", agent="0.1.0", list_state="a", generation=1)


def trial(control: str, state: State, group: str = "programs", detail: str = "seen") -> Trial:
    return Trial(control, state, "signal", detail, 1.0, group)


def result(*controls: Trial, at: Situation = NOW, boot_ns: int = 0) -> Kept:
    return Kept(situation=at, why="first", at=1000.0, boot_ns=boot_ns, controls=controls)


def changed(**fields: Any) -> Situation:
    return msgspec.structs.replace(NOW, **fields)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (changed(boot_id="boot 2"), "boot"),
        (changed(boot_id="boot 2", kernel="6.13"), "kernel"),
        (changed(kernel="6.12-live"), "kernel"),
        (changed(agent="0.2.0"), "agent"),
        (NOW, ""),
    ],
)
def test_a_boot_another_kernel_and_another_agent_ask_for_trials_at_once(now: Situation, why: str) -> None:
    assert kept.why_now(result(), now, 1, is_fresh=False) == why


def test_where_nothing_was_tried_everything_is(tmp_path: Path) -> None:
    assert kept.why_now(None, NOW, 0, is_fresh=False) == "first"
    assert kept.is_whole("first")
    assert kept.read(tmp_path) == (None, "")


def test_probes_that_were_attached_anew_are_tried_though_nothing_else_changed() -> None:
    assert kept.why_now(result(), NOW, 1, is_fresh=True) == "attached"
    assert not kept.is_whole("attached")


def test_a_new_generation_asks_for_trials_once_an_hour_at_most() -> None:
    newer = changed(list_state="b", generation=2)
    last = result(boot_ns=5 * HOUR_NS)

    assert kept.why_now(last, newer, 6 * HOUR_NS - 1, is_fresh=False) == ""
    assert kept.why_now(last, newer, 6 * HOUR_NS, is_fresh=False) == "generation"
    assert kept.why_now(last, NOW, 9 * HOUR_NS, is_fresh=False) == ""


def test_only_what_was_better_before_is_worse_now() -> None:
    before = [trial("a", "enforcing"), trial("b", "degraded"), trial("c", "not possible"), trial("e", "enforcing")]
    after = [trial("a", "degraded", detail="why a"), trial("b", "not possible"), trial("c", "enforcing"),
             trial("d", "not possible"), trial("e", "enforcing")]  # fmt: skip

    found = kept.worsened(before, after)

    assert [(one.control, one.was, one.state) for one in found] == [
        ("a", "enforcing", "degraded"), ("b", "degraded", "not possible"),
    ]  # fmt: skip
    assert kept.summary(found) == "control 'a' was enforcing, is degraded now: why a, and 1 more"


def test_trials_of_the_agent_alone_leave_what_the_kernel_allows_as_it_was() -> None:
    before = [trial("exec", "enforcing"), trial("agent: exec", "enforcing", "running agent")]
    after = [trial("agent: exec", "not possible", "running agent")]

    assert kept.merged(before, after, whole=False) == (before[0], after[0])
    assert kept.merged(before, after, whole=True) == (after[0],)


def test_a_report_is_bounded_however_much_was_found() -> None:
    many = (trial(f"control {number}", "not possible", detail="x" * 4000) for number in range(500))

    said = kept.report(result(*many))

    assert len(said["controls"]) == kept.MAX_REPORTED
    assert len(msgspec.json.encode(said)) < 32 << 10


def test_a_trial_says_what_went_wrong_in_one_bounded_line() -> None:
    def fails() -> Found:
        raise NotEnforced("it\nran " * 100, "boot with lsm=...,bpf")

    done = tried("programs", "exec", fails)

    assert (done.state, done.tier, done.way_out) == ("not possible", "", "boot with lsm=...,bpf")
    assert "\n" not in done.detail
    assert len(done.detail) == MAX_DETAIL_CHARS


def test_a_lower_tier_is_degraded_and_the_worst_state_counts() -> None:
    assert tried("g", "c", lambda: Found("signal", "killed", is_best=False)).state == "degraded"
    assert worst(["enforcing", "not possible", "degraded"]) == "not possible"
    assert worst([]) == ""


def test_a_damaged_file_of_results_is_said_and_asks_for_trials(tmp_path: Path) -> None:
    kept.path_of(tmp_path).write_text("{")

    found, fault = kept.read(tmp_path)

    assert found is None
    assert "damaged" in fault


def test_canaries_are_values_that_the_whole_list_blocks_for_longer_than_a_trial() -> None:
    lines = [
        (Kind.IP, "203.0.113.1", Verdict.ALLOW, 0), (Kind.IP, "203.0.113.2", Verdict.BLOCK, 1030),
        (Kind.IP, "203.0.113.3", Verdict.SUSPECT, 0), (Kind.CIDR, "198.51.100.0/24", Verdict.BLOCK, 0),
        (Kind.DOMAIN, "bad.example", Verdict.BLOCK, 0),
        *((Kind.IP, f"203.0.113.{number}", Verdict.BLOCK, 0) for number in range(10, 20)),
    ]  # fmt: skip
    entries = [
        Entry(id=number, kind=kind, value=value, verdict=verdict, valid_until=until)
        for number, (kind, value, verdict, until) in enumerate(lines, 1)
    ]
    with Stack.of(Generation(encode(entries, generation=1, created_s=0))) as ble:
        found = blocked(ble, 1000.0)

    assert found[Kind.DOMAIN] == ["bad.example"]
    assert len(found[Kind.IP]) == MAX_EACH
    assert not {"203.0.113.1", "203.0.113.2", "203.0.113.3"} & set(found[Kind.IP])


def test_the_dynamic_loader_of_a_program_is_read_from_its_file(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")

    assert interpreter_of(Path("/bin/sh").resolve()).exists()
    with pytest.raises(NotPossible, match="no ELF"):
        interpreter_of(text)


@pytest.mark.parametrize(
    ("answer", "way"),
    [
        ("no: the kernel takes LSM programs and does not call them; boot it with bpf among lsm=...", "boot with bpf"),
        ("no: load a program: Operation not permitted", "lockdown"),
        ("no: load a program: No such process", "CONFIG_BPF_LSM"),
    ],
)
def test_the_way_to_a_better_tier_depends_on_what_the_kernel_said(answer: str, way: str) -> None:
    assert way in way_to_lsm(answer)


class Hands(DeviceClock):
    """A clock that is moved by hand."""

    def __init__(self, state: Path, boot_id: str = "boot 1") -> None:
        self.ns = 0
        super().__init__(state, boot_id=lambda: boot_id)

    def boot_ns(self) -> int:
        return self.ns


class Bench:
    """An examiner whose trials come to what the test says."""

    def __init__(self, state: Path, boot_id: str = "boot 1") -> None:
        self.state, self.clock = state, Hands(state, boot_id)
        self.found: list[Trial] = [trial("exec", "enforcing"), trial("agent: exec", "enforcing", "running agent")]
        self.failure: Exception | None = None
        self.asked: list[bool] = []
        self.done = threading.Event()
        self.examiner = Examiner(
            Config(paths=Paths(state=str(state)), agent=Agent(examine_after_s=20)), clock=self.clock,
            on_done=self.done.set, try_all=self.try_all,
        )  # fmt: skip

    def try_all(self, _config: Config, *, kernel: bool, agent: bool, on_started: Callable[[int], None]) -> list[Trial]:
        assert agent
        on_started(4711)
        self.asked.append(kernel)
        if self.failure:
            raise self.failure
        return self.found

    def tick(self, generation: int = 1, list_state: str = "a") -> str:
        """One tick of the loop, and the end of the trials if it began any."""
        why = self.examiner.begin_if_due(generation, list_state)
        if why:
            assert self.done.wait(10)
            self.done.clear()
            self.examiner.finish()
        return why


def test_trials_begin_after_the_boot_has_had_its_time_and_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    assert bench.tick() == ""
    bench.clock.ns = 20 * 1_000_000_000
    assert bench.tick() == "first"
    assert bench.tick() == ""
    assert bench.asked == [True]
    again = Bench(tmp_path)  # the agent was restarted
    again.clock.ns = HOUR_NS
    assert again.tick() == ""
    assert again.examiner.status()["worst"] == "enforcing"


def test_after_a_reboot_all_is_tried_and_what_became_worse_is_told_once(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.clock.ns = HOUR_NS
    first.tick()
    bench = Bench(tmp_path, "boot 2")
    bench.clock.ns = HOUR_NS
    bench.found = [trial("exec", "not possible", detail="a listed program ran"), bench.found[1]]

    assert bench.tick() == "boot"

    told: list[Escalation] = []
    bench.examiner.hand_on(told.append)
    bench.examiner.hand_on(told.append)
    (alert,) = told
    assert (alert.kind, alert.rule, alert.severity) == ("control", "control-worse", Severity.HIGH)
    assert alert.summary == "control 'exec' was enforcing, is not possible now: a listed program ran"
    assert alert.evidence["controls"][0]["was"] == "enforcing"


def test_what_became_worse_is_told_by_the_next_agent_when_this_one_could_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.clock.ns = HOUR_NS
    bench.tick()
    bench.found = [trial("exec", "degraded"), bench.found[1]]
    bench.examiner.attached_anew()
    bench.tick()
    told: list[Escalation] = []

    Bench(tmp_path).examiner.hand_on(told.append)

    assert [alert.severity for alert in told] == [Severity.MEDIUM]


def test_a_change_of_the_list_has_the_running_agent_alone_tried(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.clock.ns = HOUR_NS
    bench.tick()
    bench.clock.ns = 3 * HOUR_NS

    assert bench.tick(2, "b") == "generation"
    assert bench.asked == [True, False]
    assert bench.examiner.report() is not None
    assert bench.examiner.status()["generation"] == 2


@pytest.mark.parametrize("failure", [NotPossible("took more than 120 s"), ValueError("120 s")], ids=["told", "fault"])
def test_trials_that_come_to_nothing_leave_the_last_result_and_wait(tmp_path: Path, failure: Exception) -> None:
    bench = Bench(tmp_path)
    bench.clock.ns = HOUR_NS
    bench.tick()
    bench.failure = failure
    bench.examiner.attached_anew()

    assert bench.tick() == "attached"
    assert bench.examiner.status()["worst"] == "enforcing"
    assert "120 s" in bench.examiner.status()["fault"]
    assert bench.tick() == ""
    bench.clock.ns += int(kept.RETRY_S * 1e9)
    bench.failure = None
    assert bench.tick() == "attached"
    assert bench.examiner.status()["fault"] == "none"


def test_the_family_of_trials_is_named_only_while_they_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.clock.ns = HOUR_NS

    bench.examiner.begin_if_due(1, "a")
    assert bench.done.wait(10)
    assert bench.examiner.tries_as == 4711
    bench.examiner.finish()
    assert bench.examiner.tries_as == 0
