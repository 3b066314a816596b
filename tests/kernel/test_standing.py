# SPDX-License-Identifier: Apache-2.0
"""What the policy declares for the time without an agent holds in the kernel, and no sooner."""

import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Map
from mamplus_host.policy.standing import ConnectStanding, ExecStanding, Standing
from mamplus_host.verdicts import Verdict

from .conftest import REFUSED, Agent

pytestmark = pytest.mark.kernel
REFUSES = Standing(exec=ExecStanding(agent_down="refuse-unknown", agent_down_s=30))
CUTS_OFF = Standing(connect=ConnectStanding(agent_down="guarded-only", agent_down_s=30))


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


def silent_for(agent: Agent, seconds: int) -> None:
    """Make the agent look as if it had not lived for so long."""
    beat = Map.pinned(agent.kernel.directory / "heartbeat", 4, layout.HEARTBEAT.size)
    now = dict(zip(layout.HEARTBEAT_FIELDS, layout.HEARTBEAT.unpack(beat.get(bytes(4)) or b""), strict=True))
    now["agent_awake_ns"] = max(1, time.monotonic_ns() - seconds * 1_000_000_000)
    beat.set(bytes(4), layout.HEARTBEAT.pack(*now.values()))


def test_unknown_programs_are_refused_once_the_agent_is_gone_for_long(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    known = (agent.programs / "talk", "tcp", "127.0.0.1", "9")  # made known by the fixture; what it loads, by a run
    assert agent.run(*known) == errno.ECONNREFUSED
    agent.kernel.tables.set_posture(agent.config, standing=REFUSES)
    silent_for(agent, 15)
    assert agent.run(fresh(), tmp_path / "mark") == 7
    silent_for(agent, 31)

    assert agent.run(fresh(), tmp_path / "not") in REFUSED
    assert agent.run(*known) == errno.ECONNREFUSED
    assert not (tmp_path / "not").exists()
    told = agent.wait_for("exec", lambda record: record.flags & layout.F_DECLARED != 0)
    assert told.flags & layout.F_REFUSED

    agent.kernel.beat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    assert agent.run(fresh(), tmp_path / "mark") == 7


def test_what_nothing_was_declared_for_stands_however_long_the_agent_is_gone(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    agent.kernel.tables.set_posture(agent.config)
    silent_for(agent, 100_000)

    assert agent.run(fresh(), tmp_path / "mark") == 7
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM


def test_without_an_agent_only_what_is_guarded_may_be_connected_to(agent: Agent) -> None:
    agent.kernel.tables.set_posture(agent.config, standing=CUTS_OFF)
    agent.kernel.tables.set_guard([("192.0.2.7", 9)])

    def talk(address: str) -> int:
        return agent.run(agent.programs / "talk", "tcp", address, "9")

    def refused() -> int:
        return sum(record.flags & layout.F_DECLARED != 0 for record in agent.seen if record.kind == "connect")

    silent_for(agent, 15)
    assert talk("203.0.113.9") != errno.EPERM
    silent_for(agent, 31)

    assert talk("203.0.113.9") == errno.EPERM
    assert talk("2001:db8::9") == errno.EPERM
    assert talk("192.0.2.7") != errno.EPERM
    assert talk("127.0.0.1") == errno.ECONNREFUSED
    assert talk("::1") == errno.ECONNREFUSED
    agent.drain()
    assert refused() == 2


def test_in_monitor_mode_what_would_be_cut_off_is_told(reuse: Callable[..., Agent]) -> None:
    agent = reuse(agent={"mode": "monitor"})
    agent.kernel.tables.set_posture(agent.config, standing=CUTS_OFF)
    silent_for(agent, 31)

    assert agent.run(agent.programs / "talk", "tcp", "203.0.113.9", "9") != errno.EPERM

    assert agent.wait_for("connect").flags & layout.F_MONITOR
