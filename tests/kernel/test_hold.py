# SPDX-License-Identifier: Apache-2.0
"""A program that waits cannot be let go on by somebody else, and is not forgotten."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mamplus_host.kernel._native import ffi, lib

from mamplus_host.clock import SystemClock
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.bpf import Fd
from mamplus_host.kernel.features import probe

from .conftest import Agent, Record, end

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("below_lsm")]
TRIES = 100
SLOW_BYTES = 1 << 30


def _freeze_responder(agent: Agent) -> int:
    """Stop the responder, as if hashing took for ever; its heartbeat stays fresh for seconds."""
    pid = responder.ensure_running(agent.config).pid
    os.kill(pid, signal.SIGSTOP)
    return pid


def _require_none_ran(agent: Agent, *marks: Path) -> None:
    """None got to an instruction. Where the sender's side ends it (signal.bpf.c), nobody says so: ask last."""
    if "resumed" not in agent.kernel.hooks():
        pytest.skip(f"ended, but the first instructions may win here: {probe().optional['resumed']}")
    assert [mark.name for mark in marks if mark.exists()] == []


def test_whoever_lets_a_held_program_go_on_ends_it(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path
) -> None:
    agent = attach(exec={"on_responder_down": "refuse", "on_deadline": "refuse"})  # it may be, on a starved machine
    if agent.kernel.hooks().keys().isdisjoint({"resumed", "signal"}):
        pytest.skip(f"a SIGCONT ends a wait early here: {probe().optional}")
    listed = [fresh() for _ in range(TRIES)]
    agent.block(*listed)

    for program in listed:
        assert agent.run(agent.programs / "waker", program, tmp_path / f"by-{program.name}") == 128 + signal.SIGKILL

    _require_none_ran(agent, *(tmp_path / f"by-{program.name}" for program in listed))


def test_a_held_program_that_is_woken_is_told_as_refused(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    pid = _freeze_responder(agent)
    try:
        assert agent.run(agent.programs / "waker", fresh(), tmp_path / "mark") == 128 + signal.SIGKILL
    finally:
        os.kill(pid, signal.SIGCONT)

    answer = agent.wait_for("held")
    assert answer.flags & (layout.F_REFUSED | layout.F_DECLARED | layout.F_UNKNOWN) == (
        layout.F_REFUSED | layout.F_DECLARED | layout.F_UNKNOWN
    )


def test_who_is_refused_does_not_run_before_its_sigkill_comes(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    if agent.kernel.hooks().keys().isdisjoint({"resumed", "signal"}):
        pytest.skip(f"a SIGCONT ends a wait early here: {probe().optional}")
    pid = _freeze_responder(agent)
    try:
        with agent.start(fresh(), tmp_path / "mark") as process:
            held = agent.wait_for(
                "exec", lambda record: record.tgid == process.pid and bool(record.flags & layout.F_HELD)
            )
            assert _answer(agent, held) & layout.REPLY_KILL  # the responder's SIGKILL would follow
            process.send_signal(signal.SIGCONT)
            assert process.wait() == -signal.SIGKILL
    finally:
        os.kill(pid, signal.SIGCONT)

    assert agent.count("held") == 1
    _require_none_ran(agent, tmp_path / "mark")


@pytest.mark.parametrize("is_stopped_first", [True, False])
def test_a_family_that_is_stopped_and_goes_on_leaves_who_waits_for_a_hash_to_the_responder(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path, is_stopped_first: bool
) -> None:
    agent = attach(exec={"deadline_ms": 60_000})
    stopper = Stopper(tmp_path, Processes.of(agent.config, GuardSet()), agent.kernel.tables.is_waiting)
    pid = _freeze_responder(agent)
    try:
        with agent.start(fresh(), tmp_path / "mark") as process:
            agent.wait_for("exec", lambda record: record.tgid == process.pid and bool(record.flags & layout.F_HELD))
            if is_stopped_first:
                stopper.stop(process.pid, SystemClock().boot_ns())
            else:  # it was stopped before its exec came so far
                stopper._remember(process.pid)
            stopper.go_on()
            assert agent.kernel.tables.is_waiting(process.pid)
            os.kill(pid, signal.SIGCONT)
            assert process.wait() == 7
            assert not agent.kernel.tables.is_waiting(process.pid)
    finally:
        os.kill(pid, signal.SIGCONT)


def _answer(agent: Agent, held: Record) -> int:
    """Answer a start as the responder does when it has no hash; return its reply."""
    question = layout.ANSWER_ARGS.pack(held.tgid, 0, held.fields["head_boot_ns"])
    reply = ffi.new("uint32_t *")
    with Fd.open(pins.program_pin(agent.kernel.directory, "mamplus_answer")) as program:
        assert lib.mamplus_run(program.number, ffi.from_buffer(question), len(question), reply) == 0
    return int(reply[0])


def test_what_a_killed_responder_left_waiting_is_answered_by_the_next(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path
) -> None:
    agent = attach(exec={"deadline_ms": 60_000})
    listed, other = fresh(), fresh()
    os.truncate(listed, SLOW_BYTES)  # sparse: it takes long to hash and no room
    agent.block(listed)
    pid = responder.ensure_running(agent.config).pid
    with agent.start(listed, tmp_path / "listed") as first:
        while str(listed) not in _open_files(pid):
            os.sched_yield()
        os.kill(pid, signal.SIGSTOP)  # it has read the first hold, and does not read the second
        with agent.start(other, tmp_path / "other") as second:
            agent.wait_for("exec", lambda record: record.tgid == second.pid)
            end(pid)
            assert not responder.ensure_running(agent.config).adopted
            assert (first.wait(), second.wait()) == (-signal.SIGKILL, 7)

    assert not (tmp_path / "listed").exists()
    assert (tmp_path / "other").exists()


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(link))
    return found


def test_more_starts_than_may_wait_get_the_declared_answer(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    too_many = 6
    pid = _freeze_responder(agent)
    with agent.start(agent.programs / "crowd", str(layout.HELD_MAX + too_many), fresh(), tmp_path / "mark") as crowd:
        agent.wait_for("exec", lambda record: record.flags & layout.F_DECLARED != 0)
        while agent.kernel.tables.counters()["hold_lost"] < too_many:
            agent.kernel.ring.wait()
            agent.drain()
        os.kill(pid, signal.SIGCONT)
        assert crowd.stdout is not None
        assert crowd.stdout.read().split() == [b"%d" % too_many, b"%d" % layout.HELD_MAX]

    assert agent.kernel.tables.counters()["held"] == layout.HELD_MAX


def test_whoever_attaches_to_a_held_program_ends_it(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    agent.make_known(agent.programs / "tracer", "/bin/true", "")
    pid = _freeze_responder(agent)
    try:
        assert agent.run(agent.programs / "tracer", fresh(), tmp_path / "mark") == 128 + signal.SIGKILL
    finally:
        os.kill(pid, signal.SIGCONT)

    _require_none_ran(agent, tmp_path / "mark")


def test_whoever_seizes_a_held_program_ends_it(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    if "resumed" not in agent.kernel.hooks():
        pytest.skip(f"a PTRACE_SEIZE, which sends no signal, is not seen here: {probe().optional['resumed']}")
    agent.make_known(agent.programs / "seizer", "/bin/true", "")
    pid = _freeze_responder(agent)
    try:
        assert agent.run(agent.programs / "seizer", fresh(), tmp_path / "mark") == 128 + signal.SIGKILL
    finally:
        os.kill(pid, signal.SIGCONT)

    assert not (tmp_path / "mark").exists()


def test_two_endless_files_do_not_keep_the_others_waiting(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path
) -> None:
    agent = attach(exec={"deadline_ms": 20_000})
    endless = [fresh() for _ in range(2)]
    for program in endless:
        os.truncate(program, 1 << 42)  # sparse: hashing it takes an hour

    with contextlib.ExitStack() as stack:
        for program in endless:
            stack.enter_context(agent.start(program, tmp_path / "endless"))
        for _ in range(2):
            agent.wait_for("exec", lambda record: bool(record.flags & layout.F_HELD))

        assert agent.run(fresh(), tmp_path / "mark") == 7

    assert (tmp_path / "mark").exists()
