# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost silently, and nobody is woken for nothing."""

import errno
import select

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.collector.past import Past
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel


def test_what_happened_is_what_was_drained_and_what_was_counted_as_lost(agent: Agent) -> None:
    forks = layout.EVENTS_BYTES // (80 + 8)  # with their exits, twice what the ring holds

    assert agent.run(agent.programs / "burst", str(forks)) == 0

    counters = agent.kernel.tables.counters()
    agent.drain()
    assert counters["lost"] > 0
    assert counters["produced"] == len(agent.seen)
    assert counters["produced"] + counters["lost"] == 2 * forks + 2  # and the burst's own start and end


def test_records_of_several_kinds_come_in_the_order_in_which_they_were_made(agent: Agent) -> None:
    assert agent.run(agent.programs / "burst", "3") == 0

    agent.drain()
    told = [record.kind for record in agent.seen if record.kind in ("fork", "exit")]
    assert told == ["fork", "exit"] * 3 + ["exit"]  # the last one is the burst's own


def test_after_a_full_ring_reports_come_again(agent: Agent) -> None:
    agent.run(agent.programs / "burst", str(layout.EVENTS_BYTES // 88))
    agent.drain()
    lost = agent.kernel.tables.counters()["lost"]

    assert agent.run(agent.programs / "burst", "1") == 0

    assert agent.wait_for("fork", lambda record: record is agent.seen[-3]).tgid
    assert agent.kernel.tables.counters()["lost"] == lost


def test_a_full_ring_loses_the_report_and_not_the_refusal(agent: Agent) -> None:
    agent.run(agent.programs / "burst", str(layout.EVENTS_BYTES // 88))
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    lost = agent.kernel.tables.counters()["lost"]

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM

    counters = agent.kernel.tables.counters()
    assert counters["refused"] == 1
    assert counters["lost"] > lost
    assert agent.count("connect") == 0


def test_an_idle_reader_sleeps_without_a_timer_and_the_first_record_wakes_it(agent: Agent) -> None:
    agent.drain()
    while agent.kernel.ring.arm() is not None:
        agent.drain()
    assert not _is_readable(agent)

    agent.run(agent.programs / "burst", "1")

    assert _is_readable(agent)


def test_while_records_flow_only_urgent_ones_wake_the_reader(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    agent.run(agent.programs / "burst", "1")
    agent.drain()
    assert agent.kernel.ring.arm() == 0.1  # there was something: the next ones are gathered

    agent.run(agent.programs / "burst", "1")
    assert not _is_readable(agent)
    agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9")
    assert _is_readable(agent)
    agent.drain()
    assert not _is_readable(agent)


def test_a_filling_ring_wakes_the_reader(agent: Agent) -> None:
    agent.run(agent.programs / "burst", "1")
    agent.drain()
    agent.kernel.ring.arm()

    agent.run(agent.programs / "burst", str(layout.EVENTS_BYTES // 4 // 88))

    assert _is_readable(agent)


def test_a_batch_that_is_full_says_that_there_is_more(agent: Agent) -> None:
    agent.run(agent.programs / "burst", "2000")

    batch = agent.kernel.ring.drain()

    assert batch
    assert agent.kernel.ring.arm() == 0.0
    assert sum(count for _kind, count, _data in batch.runs) == len(batch.order)
    assert all(len(data) % count == 0 for _kind, count, data in batch.runs)


def test_what_is_quiet_is_kept_and_counted_and_only_the_rest_is_handed_on(agent: Agent) -> None:
    past = Past(tasks=10, events=10)
    agent.kernel.ring.feed(past)
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))

    agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9")
    agent.run(agent.programs / "burst", str(layout.EVENTS_BYTES // 88))  # of which the ring loses some
    agent.drain()

    assert {record.kind for record in agent.seen} == {"connect"}
    counters = agent.kernel.tables.counters()
    assert counters["lost"] > 0
    assert counters["produced"] == len(agent.seen) + past.unseen
    assert len(past.recent()) == 10


def test_who_follows_is_handed_every_record_and_they_are_kept_all_the_same(agent: Agent) -> None:
    past = Past(tasks=10, events=1000)
    agent.kernel.ring.feed(past)
    past.wish(everything=True, starts=False)

    agent.run(agent.programs / "burst", "3")
    agent.drain()

    assert [record.kind for record in agent.seen if record.kind != "exec"][-7:] == ["fork", "exit"] * 3 + ["exit"]
    assert (past.unseen, len(past.recent())) == (0, len(agent.seen))


def _is_readable(agent: Agent) -> bool:
    outer = select.epoll()
    outer.register(agent.kernel.ring.fileno(), select.EPOLLIN)
    try:
        return bool(outer.poll(0))
    finally:
        outer.close()
