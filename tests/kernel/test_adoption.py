# SPDX-License-Identifier: Apache-2.0
"""Enforcement outlives the agent; the next one adopts it; only `detach` ends it."""

import errno
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused, NotPossible
from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.verdicts import Verdict
from story.stage import wait_for

from .conftest import DEADLINE_S, REFUSED, Agent, end, sha256

pytestmark = pytest.mark.kernel
HOOKS = {"exec", "fork", "exit", "connect4", "connect6", "sendmsg4", "sendmsg6", "dns", "egress", "ingress"}

OPTIONAL = {name.removeprefix("mamplus_") for name in (*pins.WAKER_HOOKS, *pins.OPTIONAL_TRACING, *pins.GUARD)}


def required(agent: Agent) -> set[str]:
    """Return the hooks that are attached, without those that a kernel may lack."""
    return set(agent.kernel.hooks()) - OPTIONAL


AGENT = """
import sys, time
from pathlib import Path
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.encode import encode
from mamplus_host.ble.format import Generation
from mamplus_host.config import parse
from mamplus_host.kernel.objects import Kernel
from mamplus_host.verdicts import Verdict
bpffs, run, cgroup, sha256 = sys.argv[1:]
config = parse({"scope": {"cgroup": cgroup}, "agent": {"self_protection": False},
                "paths": {"bpffs": bpffs, "run": run, "state": run}})
kernel = Kernel.attach(config, Path(cgroup))
entries = [Entry(id=1, kind=Kind.SHA256, value=sha256, verdict=Verdict.BLOCK),
           Entry(id=2, kind=Kind.IP, value="127.66.0.1", verdict=Verdict.BLOCK)]
kernel.tables.load(Generation(encode(entries, generation=7, created_s=1)), time.time())
print("ready", flush=True)
time.sleep(600)
"""


def _start_and_kill_an_agent(config: Config, cgroup: Path, listed: Path) -> None:
    command = [sys.executable, "-c", AGENT, config.paths.bpffs, config.paths.run, str(cgroup), sha256(listed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()


def test_a_killed_agent_leaves_everything_enforced_and_the_next_adopts_it(
    configure: Callable[..., Config],
    attach: Callable[..., Agent],
    fresh: Callable[..., Path],
    cgroup: Path,
    programs: Path,
    tmp_path: Path,
) -> None:
    config, listed = configure(), fresh()
    _start_and_kill_an_agent(config, cgroup, listed)
    copy = Path(shutil.copy(listed, tmp_path / "another-name"))

    def start(*command: str | Path) -> int:
        return subprocess.run([programs / "enter", cgroup, *command], check=False).returncode

    assert start(copy, tmp_path / "mark") in REFUSED  # the responder lives on
    assert start(programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM

    end(responder.ensure_running(config).pid)
    innocent = fresh()
    assert start(innocent, tmp_path / "mark") in REFUSED  # nobody hashes it: the declared answer
    assert start(copy, tmp_path / "mark") in REFUSED
    assert not (tmp_path / "mark").exists()

    agent = attach()
    assert agent.kernel.adopted
    assert agent.kernel.tables.generation() == 7
    assert agent.run(innocent, tmp_path / "mark") == 7
    how = "exec" if "bprm" in agent.kernel.hooks() else "held"
    told = agent.wait_for(how, lambda record: record.verdict is Verdict.BLOCK)
    assert told.fields["path"].partition(b"\0")[0] == os.fsencode(copy)  # what happened meanwhile is told, too
    assert agent.wait_for("exec", lambda record: record.flags & layout.F_DECLARED != 0)


def test_everything_is_attached_and_detach_removes_all_of_it_and_nothing_else(agent: Agent) -> None:
    assert required(agent) == HOOKS
    stranger = agent.config.bpffs / "somebody-elses"
    stranger.mkdir()
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM

    Kernel.detach(agent.config)

    assert list(agent.config.bpffs.iterdir()) == [stranger]
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9") == errno.ECONNREFUSED
    stranger.rmdir()


def test_an_attach_that_was_cut_off_is_not_adopted(attach: Callable[..., Agent]) -> None:
    agent = attach()
    pins.link_pin(pins.directory_for(agent.config, agent.cgroup), "mamplus_connect4").unlink()
    assert "connect4" not in agent.kernel.hooks()
    end(responder.ensure_running(agent.config).pid)

    again = attach()

    assert not again.kernel.adopted
    assert required(again) == HOOKS
    again.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    assert again.run(again.programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM


def test_another_scope_replaces_and_the_old_one_stands_until_it_is_retired(
    attach: Callable[..., Agent], cgroup: Path
) -> None:
    old = attach()
    old.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    inner = cgroup / "inner"
    inner.mkdir()
    try:
        new = attach(scope={"cgroup": str(inner)})
        assert not new.kernel.adopted
        assert old.run(old.programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM
        assert new.kernel.retire_predecessors() == 1
        wait_for(  # the kernel lets go of a link from a work queue
            "the old hooks to be gone",
            lambda: old.run(old.programs / "talk", "tcp", "127.66.0.1", "9") == errno.ECONNREFUSED,
            timeout_s=DEADLINE_S,
        )
        assert required(new) == HOOKS
    finally:
        inner.rmdir()


def test_the_responder_runs_once_and_lives_through_a_second_attach(attach: Callable[..., Agent]) -> None:
    first = responder.ensure_running(attach().config)
    again = attach()
    second = responder.ensure_running(again.config)

    assert (second.pid, second.adopted) == (first.pid, True)
    assert again.kernel.heartbeats()["responder_ns"] > 0


def test_a_responder_ends_when_its_pins_are_gone(agent: Agent) -> None:
    pidfd = os.pidfd_open(responder.ensure_running(agent.config).pid)
    try:
        Kernel.detach(agent.config)
        gone = select.poll()
        gone.register(pidfd, select.POLLIN)
        assert gone.poll(DEADLINE_S * 1000)
    finally:
        os.close(pidfd)


def test_the_agents_heartbeat_is_kept_beside_the_responders(agent: Agent) -> None:
    agent.kernel.beat(12345)

    beats = agent.kernel.heartbeats()
    assert beats["agent_ns"] == 12345
    assert beats["responder_ns"] > 0


def test_what_is_no_cgroup_and_what_is_no_bpffs_is_said(
    configure: Callable[..., Config], cgroup: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotPossible, match="is no cgroup"):
        Kernel.attach(configure(), tmp_path)

    elsewhere = {"bpffs": str(tmp_path / "pins"), "run": str(tmp_path), "state": str(tmp_path)}
    with pytest.raises(NotPossible, match="want a bpffs"):
        Kernel.attach(configure(paths=elsewhere), cgroup)


def test_without_pins_there_is_no_responder(configure: Callable[..., Config]) -> None:
    with pytest.raises(KernelRefused, match="open the pin"):
        responder.ensure_running(configure())
