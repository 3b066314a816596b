# SPDX-License-Identifier: Apache-2.0
"""What every deed of this device promises, whoever wrote it: taken from the registry itself."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import Limits
from mamplus_host.errors import ActionFailed
from mamplus_host.executor import deeds as registry
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.journal import Journal, verify
from mamplus_host.executor.runner import FAILURES
from mamplus_host.executor.shape import Deed, State
from mamplus_host.executor.steps import hooked
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.verdicts import ActionKind
from tests.journey.acting import PowerCut
from tests.kernel import acts

pytestmark = pytest.mark.kernel


class Device:
    """The registry's own deeds, with the executor that carries them out; on files in a directory."""

    def __init__(self, directory: Path, scope: Path) -> None:
        self.directory, self.config = directory, acts.config_for(directory / "state", scope)
        self.clock = SystemClock()
        self.open()

    def open(self) -> None:
        state = self.config.state
        self.journal = Journal(state / "journal", max_bytes=8 << 20, clock=self.clock)
        self.vault = Vault(state / "vault", limits=Limits(), clock=self.clock)
        self.guarded = GuardSet.of_pids({os.getpid()})
        self.deeds = registry.deeds(self.config, self.vault, self.clock, self.guarded)
        self.executor = Executor(self.config, journal=self.journal, vault=self.vault, clock=self.clock,
                                 guarded=self.guarded, deeds=self.deeds)  # fmt: skip

    def close(self) -> None:
        self.journal.close()
        self.vault.close()

    def cut(self, job: Callable[[], object], at: int) -> bool:
        """Run `job`; the power goes at its step `at`. Returns whether it came so far."""
        seen = 0

        def hook(_name: str) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise PowerCut

        try:
            with hooked(hook):
                job()
            return False
        except PowerCut:
            self.close()
            self.open()
            self.executor.recover()
            return True


def damaged(device: Device) -> dict[str, object]:
    path = device.directory / "kept"
    path.write_text("as deployed")
    device.vault.protect(path)
    path.write_text("damaged")
    return {"path": str(path)}


def listed(device: Device) -> dict[str, object]:
    path = device.directory / "listed"
    path.write_bytes(b"\x7fELF" + os.urandom(5000))
    path.chmod(0o750)
    return {"path": str(path)}


SAMPLES: dict[ActionKind, Callable[[Device], dict[str, object]]] = {
    ActionKind.RESTORE: damaged,
    ActionKind.QUARANTINE: listed,
}  # of deeds that need files alone


@pytest.fixture
def scope() -> Iterator[Path]:
    with acts.own_cgroup() as path:
        yield path


@pytest.fixture
def deeds(scope: Path, tmp_path: Path) -> Iterator[dict[ActionKind, Deed]]:
    device = Device(tmp_path, scope)
    yield device.deeds
    device.close()


def test_each_deed_is_listed_under_its_own_kind(deeds: dict[ActionKind, Deed]) -> None:
    assert {kind: deed.kind for kind, deed in deeds.items()} == {kind: kind for kind in deeds}
    assert ActionKind.REFUSED not in deeds


def test_what_has_no_inverse_says_so_and_why(deeds: dict[ActionKind, Deed]) -> None:
    without = [kind for kind, deed in deeds.items() if not deed.has_inverse]
    assert {ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.KILL_CGROUP} <= set(without)
    for kind in without:
        with pytest.raises(FAILURES):
            deeds[kind].undo({})
    for kind in (ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.KILL_CGROUP):
        with pytest.raises(ActionFailed, match="cannot be brought back"):
            deeds[kind].undo({})


def test_a_target_that_says_nothing_is_refused_in_a_way_that_the_executor_takes(deeds: dict[ActionKind, Deed]) -> None:
    for kind in (ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.KILL_CGROUP, ActionKind.FREEZE, ActionKind.RESTORE):
        with pytest.raises(FAILURES):
            deeds[kind].prepare("A", {})


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_cut_after_any_step_leaves_it_done_or_undone_and_the_journal_says_which(
    scope: Path, tmp_path: Path, kind: ActionKind
) -> None:
    at, is_cut = 0, True
    while is_cut:
        at += 1
        device = Device(tmp_path / str(at), scope)
        target = SAMPLES[kind](device)
        facts = device.deeds[kind].prepare("look", target)
        is_cut = device.cut(lambda: device.executor.start(kind, target), at)  # noqa: B023 - run before the next turn
        states = [record.data["state"] for record in device.journal.records() if record.kind == "outcome"]
        assert states in ([], ["done"])
        for name in {record.id for record in device.journal.records() if record.kind == "outcome"}:
            assert [seen.is_right for seen in device.executor.verify(name)] == [True]
            device.executor.undo(name)
            assert [(seen.wanted, seen.seen) for seen in device.executor.verify(name)] == [("undone", "undone")]
        if not states:
            assert device.deeds[kind].verify(facts) is State.UNDONE
        assert verify(device.config.state / "journal") is None
        device.close()
    assert at > 4
