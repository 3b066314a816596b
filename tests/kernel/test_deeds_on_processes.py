# SPDX-License-Identifier: Apache-2.0
"""Killing trees and apps, and what is spared: real processes in our own cgroup, and a real SIGKILL at every step."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import Limits
from mamplus_host.errors import ActionFailed
from mamplus_host.executor import deeds as registry
from mamplus_host.executor.guardset import GuardSet, program_role
from mamplus_host.executor.journal import verify
from mamplus_host.executor.plan import Action
from mamplus_host.executor.processes import cgroups
from mamplus_host.executor.processes.cgroups import members
from mamplus_host.executor.processes.process import HOLD_PREFIX
from mamplus_host.executor.shape import Deed, State
from mamplus_host.executor.steps import hooked
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.policy.actions import Spared
from mamplus_host.verdicts import ActionKind, Decision, Finding
from story.stage import wait_for
from tests.journey.acting import carry_out
from tests.kernel import acts
from tests.kernel.test_freeze_held import Agent, decided

pytestmark = pytest.mark.kernel

TREE = """
    import os, sys, time
    def grow(depth):
        for _ in range(2):
            if depth and os.fork() == 0:
                grow(depth - 1)
                time.sleep(600)
        return
    grow(3)
    print("grown", flush=True)
    time.sleep(600)
"""
ORPHANS = """
    import os, sys, time
    for _ in range(3):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        os.wait()
    print("left", flush=True)
    time.sleep(600)
"""
NEVER_REAL = Path("/usr/bin/dpkg")  # of the guard set, and harmless: it waits for its input


@pytest.fixture
def scope() -> Iterator[Path]:
    with acts.own_cgroup() as path:
        yield path


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.fixture
def deeds(scope: Path, tmp_path: Path) -> Iterator[Callable[..., dict[ActionKind, Deed]]]:
    config = acts.config_for(tmp_path / "state", scope)
    vault = Vault(config.state / "vault", limits=Limits(), clock=SystemClock())

    def made(guarded: GuardSet | None = None) -> dict[ActionKind, Deed]:
        own = frozenset({os.getpid()})
        return registry.deeds(config, vault, SystemClock(), guarded or GuardSet(lambda: own))

    yield made
    vault.close()


def await_empty(cgroup: Path) -> None:
    wait_for(f"{cgroup} to be empty", lambda: not members(cgroup), timeout_s=acts.SOON_S)


def test_a_tree_ends_whole_and_a_bystander_does_not(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path, tmp_path: Path
) -> None:
    deed = deeds()[ActionKind.KILL_TREE]
    with acts.running(TREE, cgroup=scope) as root, acts.counting(tmp_path, scope) as bystander:
        root.line()
        facts = deed.prepare("A", {"tgid": root.pid, "boot_ns": now()})
        assert deed.verify(facts) is State.UNDONE

        deed.do(facts)

        assert root.process.wait(10) == -signal.SIGKILL
        assert members(scope) == {bystander.pid}
        assert deed.verify(facts) is State.DONE
        bystander.await_moving()
        deed.do(facts)  # as after a power cut
        bystander.await_moving()


def test_a_tree_that_was_left_half_killed_is_found_again_by_its_root(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path
) -> None:
    deed = deeds()[ActionKind.KILL_TREE]
    with acts.running(TREE, cgroup=scope) as root:
        root.line()
        facts = deed.prepare("A", {"tgid": root.pid, "boot_ns": now()})
        facts["family"] = []  # of what came after it was written down nothing is known
        seen = 0

        def stop(name: str) -> None:
            nonlocal seen
            seen += name == "kill-tree: one ended"
            if seen == 4:
                raise KeyboardInterrupt

        with hooked(stop), pytest.raises(KeyboardInterrupt):
            deed.do(facts)
        assert len(members(scope)) > 3

        deed.do(facts)
        await_empty(scope)


def test_an_app_ends_with_what_left_its_parents(deeds: Callable[..., dict[ActionKind, Deed]], scope: Path) -> None:
    app = scope / "app"
    app.mkdir()
    deed = deeds()[ActionKind.KILL_CGROUP]
    with acts.running(ORPHANS, cgroup=app) as root:
        root.line()
        facts = deed.prepare("A", {"tgid": root.pid, "boot_ns": now()})

        deed.do(facts)

        assert members(app) == frozenset()
        assert deed.verify(facts) is State.DONE


def test_an_app_ends_also_where_the_kernel_ends_no_cgroups(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.14: there is no cgroup.kill."""
    write = cgroups.write

    def older(path: Path, text: str) -> None:
        if path.name == "cgroup.kill":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        write(path, text)

    monkeypatch.setattr(cgroups, "write", older)
    app = scope / "app"
    app.mkdir()
    deed = deeds()[ActionKind.KILL_CGROUP]
    with acts.running(ORPHANS, cgroup=app) as root:
        root.line()
        deed.do(deed.prepare("A", {"tgid": root.pid, "boot_ns": now()}))

        assert members(app) == frozenset()
        assert (app / "cgroup.freeze").read_text() == "0\n"


def test_an_app_that_was_started_again_is_not_ended_a_second_time(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path, tmp_path: Path
) -> None:
    app = scope / "app"
    app.mkdir()
    deed = deeds()[ActionKind.KILL_CGROUP]
    with acts.counting(tmp_path, app) as first:
        facts = deed.prepare("A", {"tgid": first.pid, "boot_ns": now()})
        deed.do(facts)
        first.program.process.wait(10)
    app.rmdir()
    app.mkdir()
    with acts.counting(tmp_path, app) as second:
        deed.do(facts)
        second.await_moving()


def test_no_app_is_ended_with_something_guarded_in_it_and_none_that_is_the_whole_scope(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path, tmp_path: Path
) -> None:
    app = scope / "app"
    app.mkdir()
    with acts.counting(tmp_path, app) as bad, acts.counting(tmp_path, app) as guarded:
        deed = deeds(GuardSet.of_pids({guarded.pid}))[ActionKind.KILL_CGROUP]
        with pytest.raises(ActionFailed, match="holds guarded processes"):
            deed.prepare("A", {"tgid": bad.pid, "boot_ns": now()})
    with acts.counting(tmp_path, scope) as lone:
        with pytest.raises(ActionFailed, match="lives in the scope itself"):
            deeds()[ActionKind.KILL_CGROUP].prepare("A", {"tgid": lone.pid, "boot_ns": now()})
        lone.await_moving()


# --- the guard set, by what a process runs -------------------------------------------------------


@pytest.fixture
def updater(scope: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real program of the guard set, running in the scope on a database of its own."""
    for folder in ("info", "updates", "triggers"):
        (tmp_path / "dpkg" / folder).mkdir(parents=True)
    for file in ("status", "available"):
        (tmp_path / "dpkg" / file).touch()
    process = subprocess.Popen(
        [NEVER_REAL, f"--admindir={tmp_path / 'dpkg'}", "--set-selections"], stdin=subprocess.PIPE,
        preexec_fn=lambda: acts._enter(scope),
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(not NEVER_REAL.exists(), reason="no dpkg on this machine")
@pytest.mark.parametrize("kind", [ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.FREEZE, ActionKind.KILL_CGROUP])
def test_nothing_acts_on_a_program_of_the_guard_set(
    deeds: Callable[..., dict[ActionKind, Deed]], updater: subprocess.Popen[bytes], kind: ActionKind
) -> None:
    assert updater.poll() is None
    with pytest.raises(ActionFailed, match="it is part of the updater"):
        deeds()[kind].prepare("A", {"tgid": updater.pid, "boot_ns": now()})
    assert updater.poll() is None


@pytest.mark.skipif(not NEVER_REAL.exists(), reason="no dpkg on this machine")
def test_an_agent_told_to_kill_it_reports_that_it_is_guarded(
    scope: Path, tmp_path: Path, updater: subprocess.Popen[bytes]
) -> None:
    assert updater.poll() is None
    agent = Agent(acts.config_for(tmp_path / "state", scope))
    decision = decided(updater.pid, Finding.CONFIRMED, "01GUARDED" + "0" * 17)

    (outcome,) = carry_out(agent.executor, decision, [Action(kind=ActionKind.KILL, boot_ns=now(), tgid=updater.pid)])

    assert (outcome.state, "part of the updater" in outcome.detail) == ("failed", True)
    assert updater.poll() is None
    agent.close()


def test_a_program_that_only_bears_such_a_name_is_not_spared(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "NetworkManager"
    shutil.copy("/bin/sleep", fake)
    process = subprocess.Popen([fake, "600"], preexec_fn=lambda: acts._enter(scope))
    try:
        deed = deeds()[ActionKind.KILL]
        deed.do(deed.prepare("A", {"tgid": process.pid, "boot_ns": now()}))
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_in_a_mount_namespace_of_its_own_a_name_counts_for_nothing(scope: Path) -> None:
    """A program that puts itself at /usr/sbin/NetworkManager where only it sees that."""
    script = (
        "mount -t tmpfs none /usr/sbin && cp /bin/sleep /usr/sbin/NetworkManager && exec /usr/sbin/NetworkManager 600"
    )
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], preexec_fn=lambda: acts._enter(scope))
    try:
        exe = f"/proc/{process.pid}/exe"
        wait_for("its exec", lambda: os.readlink(exe).endswith("/NetworkManager"), timeout_s=acts.SOON_S)
        assert program_role(process.pid, "") == ""
    finally:
        process.kill()
        process.wait()


def test_what_the_policy_spares_is_spared_by_its_file(
    deeds: Callable[..., dict[ActionKind, Deed]], scope: Path, tmp_path: Path
) -> None:
    till, copy = tmp_path / "till", tmp_path / "copy"
    shutil.copy("/bin/sleep", till)
    shutil.copy(till, copy)
    spared = GuardSet(spared=lambda: Spared(programs=(str(till),)))
    with (
        subprocess.Popen([till, "600"], preexec_fn=lambda: acts._enter(scope)) as one,
        subprocess.Popen([copy, "600"], preexec_fn=lambda: acts._enter(scope)) as other,
    ):
        try:
            with pytest.raises(ActionFailed, match="the policy spares it"):
                deeds(spared)[ActionKind.FREEZE].prepare("A", {"tgid": one.pid, "boot_ns": now()})
            deeds(spared)[ActionKind.KILL].prepare("A", {"tgid": other.pid, "boot_ns": now()})
        finally:
            one.kill()
            other.kill()


def test_files_that_the_agent_and_init_are_made_of_are_guarded_with_their_libraries(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps").read_text().split()
    library = next(word for word in maps if word.startswith("/") and "libc.so" in word)
    for path in (os.path.realpath("/proc/self/exe"), library):
        with pytest.raises(ActionFailed, match="is guarded"):
            GuardSet().refuse_path(path)
    GuardSet().refuse_path(str(tmp_path))


def test_files_of_the_agent_and_of_the_devices_own_programs_are_guarded(tmp_path: Path) -> None:
    guarded = GuardSet(trees=[tmp_path / "state"])
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    for path in ("state/journal", "link/journal", ".", "/usr/bin/dpkg", "/bin/dpkg"):
        with pytest.raises(ActionFailed, match="is guarded"):
            guarded.refuse_path(str(tmp_path / path))
    (tmp_path / "mine").write_text("")
    guarded.refuse_path(str(tmp_path / "mine"))


def test_the_way_to_the_enterprise_is_guarded_with_its_port() -> None:
    guarded = GuardSet(never=lambda: [(ip_address("192.0.2.1"), 443), (ip_address("2001:db8::1"), 0)])
    for address, port in (("192.0.2.1", 0), ("192.0.2.1", 443), ("::ffff:192.0.2.1", 443), ("2001:db8::1", 5)):
        with pytest.raises(ActionFailed, match="is guarded"):
            guarded.refuse_address(address, port)
    guarded.refuse_address("192.0.2.1", 80)
    guarded.refuse_address("192.0.2.2")


# --- the power goes ------------------------------------------------------------------------------


def killed_at(step_at: int, job: Callable[[], object]) -> int:
    """Run `job` in a child that a SIGKILL ends at its `step_at`-th step; return the child's exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen, status = 0, 1

    def hook(_name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == step_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with hooked(hook):
            job()
        status = 0
    finally:
        os._exit(status)


def treat(state: Path, scope: Path, decision: Decision, kind: ActionKind, tgid: int) -> None:
    agent = Agent(acts.config_for(state, scope))
    carry_out(agent.executor, decision, [Action(kind=kind, boot_ns=now(), tgid=tgid, ttl_s=3600)])


@pytest.mark.parametrize("kind", [ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.KILL_CGROUP, ActionKind.FREEZE])
def test_an_agent_killed_at_any_step_leaves_what_the_next_one_finishes(
    scope: Path, tmp_path: Path, kind: ActionKind
) -> None:
    step_at, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        step_at += 1
        state, app = tmp_path / f"state{step_at}", scope / f"app{step_at}"
        app.mkdir()
        place = scope if kind is ActionKind.FREEZE else app
        with acts.counting(tmp_path, place) as bad, acts.counting(tmp_path, scope) as bystander:
            decision = decided(bad.pid, Finding.CONFIRMED, f"01CUT{step_at:021}")

            def job(state: Path = state, decision: Decision = decision, tgid: int = bad.pid) -> None:
                treat(state, scope, decision, kind, tgid)

            status = killed_at(step_at, job)
            agent = Agent(acts.config_for(state, scope))
            agent.executor.recover()

            assert agent.journal.open_intents() == []
            assert verify(state / "journal") is None
            states = [r.data["state"] for r in agent.journal.records() if r.kind == "outcome"]
            assert states in ([], ["done"])
            _assert_is(kind, bad, is_done=states == ["done"])
            assert {seen.is_right for seen in agent.executor.verify(decision.id)} == {True} if states else True
            agent.executor.release_all("the test ends")
            if kind is ActionKind.FREEZE:
                bad.await_moving()
            bystander.await_moving()
            assert not list(scope.glob(f"{HOLD_PREFIX}*"))
            agent.close()
    assert status == 0
    assert step_at > 3


def _assert_is(kind: ActionKind, bad: acts.Counter, *, is_done: bool) -> None:
    if not is_done:
        bad.await_moving()
    elif kind is ActionKind.FREEZE:
        assert bad.stands_still()
    else:
        assert bad.program.process.wait(10) == -signal.SIGKILL
