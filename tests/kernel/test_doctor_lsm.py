# SPDX-License-Identifier: Apache-2.0
"""An agent that defends itself by BPF LSM: what it finds of its controls, and what a stranger finds beside it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mamplus_host.config import Config, load
from mamplus_host.control import client
from mamplus_host.doctor import asking, kept
from mamplus_host.doctor.running import LINKS
from mamplus_host.doctor.trial import Trial
from mamplus_host.kernel.features import YES, lsm
from mamplus_host.kernel.objects import Kernel
from story.stage import Stage, wait_for

from .conftest import SLOWNESS
from .test_doctor import ENFORCED_EVERYWHERE, install_list, not_by_lsm

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300 * SLOWNESS)]
EXAMINED_S = asking.TOTAL_S + 60.0
# The agent as it is, but that it ends with its input: nobody else can end it.
AGENT = """
import os, signal, sys, threading
from mamplus_host import service
threading.Thread(target=lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
sys.argv[1:] = ["--config", sys.argv[1]]
sys.exit(service.main())
"""


class Said(NamedTuple):
    """What was said of the controls: by the agent itself, and by a stranger beside it, as `mamplus doctor`."""

    by_agent: dict[str, Trial]
    by_stranger: dict[str, Trial]
    status: dict[str, Any]  # of the agent, after both
    alerts: list[dict[str, Any]]


@pytest.fixture(scope="module")
def said() -> Iterator[Said]:
    if (answer := lsm()) != YES:
        pytest.skip(f"BPF LSM: {answer}")
    with contextlib.ExitStack() as stack:
        file = _configuration(Stage(stack))
        config = load(file)
        install_list(config.state)
        stack.callback(Kernel.detach, config)  # as the next agent
        with _agent(file):
            wait_for("the trials", lambda: kept.read(config.state)[0], timeout_s=EXAMINED_S, every_s=0.5)
            yield _asked(config)


def _configuration(stage: Stage) -> Path:
    home, tag = stage.root / "home", stage.tag
    home.mkdir()
    file = home / "agent.toml"
    file.write_text(
        "[agent]\nself_protection = true\nexamine_after_s = 0.0\n"
        f'[scope]\ncgroup = "{stage.cgroup(f"mamplus-story-{tag}")}"\nnetns = ["{stage.netns}"]\n'
        f'[paths]\nstate = "{home}/state"\nrun = "{home}/run"\nbpffs = "/sys/fs/bpf/mamplus-story-{tag}"\n'
    )
    return file


@contextlib.contextmanager
def _agent(file: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline().startswith(b"ready")
            yield
        finally:
            process.stdin.close()


def _asked(config: Config) -> Said:
    """Ask as root, from outside of the agent."""
    result, fault = kept.read(config.state)
    assert result, fault
    trials = list(asking.examine(config, kernel=True, agent=True))
    status, alerts = (client.call(config.control_socket, what) for what in ("status", "alerts"))
    return Said({one.control: one for one in result.controls}, {one.control: one for one in trials}, status, alerts)


def test_the_agent_finds_each_control_enforced_by_lsm_where_lsm_can(said: Said) -> None:
    assert not_by_lsm(said.by_agent) == {}
    everywhere = {name: said.by_agent[name] for name in ENFORCED_EVERYWHERE}
    assert {name: trial for name, trial in everywhere.items() if trial.state != "enforcing"} == {}


def test_the_agents_own_hooks_enforce_its_list(said: Said) -> None:
    own = {name: trial for name, trial in said.by_agent.items() if name.startswith("agent: ")}

    assert {name: trial for name, trial in own.items() if trial.state != "enforcing"} == {}
    assert {own[f"agent: {which} program"].tier for which in ("listed", "unknown")} == {"lsm"}


def test_a_stranger_finds_the_same_of_the_kernel_and_is_kept_away_from_the_agents_hooks(said: Said) -> None:
    assert not_by_lsm(said.by_stranger) == {}
    assert said.by_stranger[LINKS].state == "degraded"
    assert "self-protection" in said.by_stranger[LINKS].detail


def test_neither_trials_nor_a_stranger_who_makes_them_disturb_the_agent(said: Said) -> None:
    assert (said.status["ble"]["generation"], said.status["tamper"]) == (1, "nothing noticed")
    assert said.alerts == []
