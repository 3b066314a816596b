# SPDX-License-Identifier: Apache-2.0
"""Trials of the controls on this kernel: what they say is so, and nothing of them stays."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from mamplus_host.kernel._native import lib

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.store import BleStore
from mamplus_host.config import CGROUP2_MOUNTS
from mamplus_host.doctor import asking, programs, running
from mamplus_host.doctor.place import PREFIX, Place, remove_left
from mamplus_host.doctor.trial import Trial
from mamplus_host.kernel import pins
from mamplus_host.kernel.bpf import Fd, checked
from mamplus_host.kernel.features import YES, lsm
from mamplus_host.verdicts import Verdict
from story.stage import wait_for
from tests.journey.offers import whole

from .conftest import SLOWNESS, Agent

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240 * SLOWNESS)]
ENFORCED_EVERYWHERE = {  # tiers that every kernel gives on which the agent starts
    "probes", "exec: unknown program", "connect, send", "DNS", "packets of open sockets", "hold a suspect",
}  # fmt: skip
BY_LSM = {  # controls that a kernel with BPF LSM gives their best tier
    "exec: listed program", "exec: unknown program", "exec: library", "exec: ld.so FILE", "exec: script",
    "open of a listed file", "guarded path", "data folder", "signals to the agent", "ptrace, memory of the agent",
    "pins",
}  # fmt: skip
LISTED = ((Kind.IP, "203.0.113.9"), (Kind.DOMAIN, "bad.example"), (Kind.SHA256, "ab" * 32))


def left(pid: int) -> list[str]:
    """What the trials of process `pid` have on this machine at this moment."""
    tag = f"{PREFIX}{pid}-"
    places = (_mount(), Path("/sys/fs/bpf"), Path(tempfile.gettempdir()))
    own = [str(path) for place in places for path in place.glob(f"{tag}*")]
    own += [line for line in Path("/proc/mounts").read_text().splitlines() if tag in line]
    return own + [line for line in _command_lines() if "mamplus-responder" in line and tag in line]


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture(scope="module")
def ended() -> tuple[int, list[Trial]]:
    """All trials against probes of their own, and the process that made them."""
    with helper() as process:
        out, _ = process.communicate(timeout=120 * SLOWNESS)
    return process.pid, [msgspec.json.decode(line, type=Trial) for line in out.splitlines()]


@pytest.fixture(scope="module")
def found(ended: tuple[int, list[Trial]]) -> dict[str, Trial]:
    return {trial.control: trial for trial in ended[1]}


def helper() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", asking.HELPER, "--kernel"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def test_every_control_is_tried_and_what_every_kernel_gives_is_enforced(found: dict[str, Trial]) -> None:
    assert {name: found[name] for name in ENFORCED_EVERYWHERE if found[name].state != "enforcing"} == {}
    assert {"exec: library", "exec: ld.so FILE", "exec: script", "guarded path", "signals to the agent"} <= found.keys()


def test_a_control_that_is_not_possible_gives_its_reason_and_the_way_out(found: dict[str, Trial]) -> None:
    lacking = [trial for trial in found.values() if trial.state == "not possible"]

    assert all(trial.detail and trial.way_out and not trial.tier for trial in lacking)
    assert found["exec: listed program"].tier in ("lsm", "signal")
    assert (found["exec: listed program"].state == "enforcing") == (found["exec: listed program"].tier == "lsm")


def not_by_lsm(found: dict[str, Trial]) -> dict[str, Trial]:
    """Return those of BY_LSM that something else enforces, or nothing."""
    return {name: found[name] for name in BY_LSM if (found[name].state, found[name].tier) != ("enforcing", "lsm")}


def test_with_bpf_lsm_each_control_that_it_can_enforce_is_enforced_by_it(found: dict[str, Trial]) -> None:
    if (answer := lsm()) != YES:
        pytest.skip(f"BPF LSM: {answer}")

    assert not_by_lsm(found) == {}


def test_nothing_stays_of_trials_that_ended(ended: tuple[int, list[Trial]]) -> None:
    wait_for("the responder's end", lambda: not left(ended[0]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_of_trials_that_were_ended(number: signal.Signals) -> None:
    with helper() as process:
        assert process.stdout is not None
        assert b'"probes"' in process.stdout.readline()
        assert left(process.pid)
        process.send_signal(number)
    assert process.returncode != 0

    remove_left(Path(tempfile.gettempdir()), _mount())  # as the next trials do
    wait_for("the responder's end", lambda: not left(process.pid))


def _mount() -> Path:
    return next(Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists())


def test_an_agent_whose_scope_covers_the_trials_does_not_spoil_them(agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        place = Place(stack, parent=agent.cgroup)
        place.beside(agent.config)
        place.attach(stack)

        assert "hashed" in programs.unknown_program(place).detail
        assert programs.listed_program(place).tier in ("signal", "lsm")
    assert agent.count("held") == 0


def install_list(state: Path) -> None:
    """Put a list with LISTED below `state`, as a genuine one."""
    state.mkdir(parents=True, exist_ok=True)
    entries = [
        Entry(id=number, kind=kind, value=canonical(kind, value), verdict=Verdict.BLOCK)
        for number, (kind, value) in enumerate(LISTED, 1)
    ]
    staged = state / "staged"
    staged.write_bytes(encode(entries, generation=1, created_s=int(time.time())))
    store = BleStore(state)
    store.install(store.prepare([whole(staged)], None, source="network", enterprise_id=""))


@pytest.fixture
def listing(agent: Agent) -> Agent:
    """An agent that enforces a list which it also has on disk."""
    install_list(agent.config.state)
    agent.publish(*((kind, value, Verdict.BLOCK) for kind, value in LISTED), generation=1)
    return agent


def asked(agent: Agent) -> dict[str, Trial]:
    return {trial.control: trial for trial in running.examine(agent.config)}


def test_the_running_agents_own_hooks_are_tried_by_what_its_list_blocks(listing: Agent) -> None:
    found = asked(listing)

    del found["agent: packets"]  # no rules were made here
    assert {name: trial.state for name, trial in found.items() if trial.state != "enforcing"} == {}
    assert "203.0.113.9" in found["agent: connect, send"].detail


def test_a_hook_that_was_taken_off_under_its_pin_is_found(listing: Agent) -> None:
    directory = pins.directory_for(listing.config, listing.cgroup)
    with Fd.open(pins.link_pin(directory, "mamplus_sendmsg4")) as link:
        checked(lib.mamplus_link_detach(link.number), "detach")

    found = asked(listing)

    assert pins.is_complete(directory)  # everything looks as if it were there
    assert (found["agent: links"].state, found["agent: connect, send"].state) == ("not possible", "not possible")
    assert "sendmsg4" in found["agent: links"].detail
    assert found["agent: DNS"].state == "enforcing"


def test_a_list_that_has_nothing_to_try_with_leaves_hooks_untried_and_says_so(agent: Agent) -> None:
    found = asked(agent)

    assert found["agent: unknown program"].state == "enforcing"
    assert found["agent: DNS"].state == "degraded"
    assert "not tried" in found["agent: DNS"].detail


def test_an_agent_that_only_watches_is_not_said_to_enforce(agent: Agent) -> None:
    watching = msgspec.structs.replace(agent.config, agent=msgspec.structs.replace(agent.config.agent, mode="monitor"))

    found = list(running.examine(watching))

    assert len(found) > 1
    assert {(trial.state, "monitor" in trial.detail) for trial in found} == {("degraded", True)}


def test_where_no_agent_ran_nothing_is_said_to_be_enforced(configure: Callable[..., object]) -> None:
    assert {trial.state for trial in running.examine(configure())} == {"not possible"}  # type: ignore[arg-type]
