# SPDX-License-Identifier: Apache-2.0
"""A device whose executor is whole, on deeds that act on files in a directory: power cuts, restarts, time by hand.

A deed here is a real one in its shape: it has several effects with a step between them, its inverse, and it
counts how often the world was changed. `World` is what survives a power cut and what does not.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mamplus_host.clock import SystemClock
from mamplus_host.config import Config, Limits, Paths
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.disarm import Disarmed
from mamplus_host.executor.execute import Executor, Planned
from mamplus_host.executor.inforce import InForceStore
from mamplus_host.executor.journal import Journal, verify
from mamplus_host.executor.plan import Action
from mamplus_host.executor.processes import tasks
from mamplus_host.executor.shape import Deed, Facts, State
from mamplus_host.executor.steps import hooked, step
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.files import sync_directory, sync_file
from mamplus_host.policy.actions import ActionRules
from mamplus_host.verdicts import ActionKind, Decision, Outcome


class PowerCut(BaseException):
    """The power goes: nothing of the agent goes on, no handler included."""


class Hands(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.wall, self.up = 1_700_000_000.0, 1000.0

    def wall_s(self) -> float:
        return self.wall

    def boot_ns(self) -> int:
        return int(self.up * 1e9)

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


class Setting:
    """Sets a file's content and mode, and puts the old ones back: as `radio` or `mount` set what was otherwise."""

    has_inverse = True

    def __init__(self, kind: ActionKind, *, is_lasting: bool = True) -> None:
        """`is_lasting`: a restart of the device leaves it as it is, else it is as before `do`."""
        self.kind, self.is_lasting = kind, is_lasting

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        path = Path(target["path"])
        if not path.exists():
            raise ActionFailed(f"{target['path']!r} is gone")
        return {"path": str(path), "old": path.read_text(), "old_mode": path.stat().st_mode & 0o777}

    def effect(self, facts: Facts) -> str:
        return str(facts["path"])

    def do(self, facts: Facts) -> str:
        self._set(facts, self.kind.value, 0o400)
        return f"set {facts['path']}"

    def undo(self, facts: Facts) -> str:
        self._set(facts, facts["old"], facts["old_mode"])
        return f"set {facts['path']} back"

    def verify(self, facts: Facts) -> State:
        path = Path(facts["path"])
        seen = (path.read_text(), path.stat().st_mode & 0o777)
        if seen == (self.kind.value, 0o400):
            return State.DONE
        return State.UNDONE if seen == (facts["old"], facts["old_mode"]) else State.BETWEEN

    @staticmethod
    def _set(facts: Facts, content: str, mode: int) -> None:
        path = Path(facts["path"])
        step("content")
        path.write_text(content)
        sync_file(path)
        step("mode")
        path.chmod(mode)
        sync_directory(path.parent)
        step("set")


class Emptying:
    """Has no inverse, and ends something for good: as `kill` does. Doing it twice would be seen."""

    kind, has_inverse = ActionKind.KILL, False

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        if not Path(target["path"]).exists():
            raise ActionFailed(f"{target['path']!r} has ended already")
        return {"path": target["path"], "ino": Path(target["path"]).stat().st_ino}

    def do(self, facts: Facts) -> str:
        step("end")
        path = Path(facts["path"])
        if path.exists() and path.stat().st_ino == facts["ino"]:
            path.unlink()
        step("ended")
        return f"ended {facts['path']}"

    def undo(self, _facts: Facts) -> str:
        raise ActionFailed("what has ended cannot be brought back")

    def verify(self, facts: Facts) -> State:
        return State.UNDONE if Path(facts["path"]).exists() else State.DONE


class Device:
    """One device: its state directory, its files, and one agent at a time."""

    def __init__(self, directory: Path, *, boot: int = 1) -> None:
        """`directory` may be that of an earlier boot."""
        self.files = directory / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        state = str(directory / "state")
        self.config = Config(paths=Paths(state=state, run=state))
        self.config.state.mkdir(exist_ok=True)
        self.clock, self.boot = Hands(), boot
        self.rules = ActionRules()
        self.volatile: dict[str, tuple[str, int]] = {}
        self.start()

    @property
    def boot_id(self) -> str:
        return f"boot {self.boot}"

    def start(self) -> None:
        """Start an agent, as the service does: what was interrupted is finished before anything else."""
        with self._boot():
            self.journal = Journal(self.config.state / "journal", max_bytes=8 << 20, clock=self.clock)
            self.vault = Vault(self.config.state / "vault", limits=Limits(), clock=self.clock)
            self.disarmed = Disarmed(self.config.state / "rules.json", clock=self.clock, rules=lambda: self.rules)
            self.executor = Executor(
                self.config, journal=self.journal, vault=self.vault, clock=self.clock, deeds=self.deeds(),
                disarmed=self.disarmed,
            )  # fmt: skip

    def deeds(self) -> dict[ActionKind, Deed]:
        found: list[Deed] = [
            Setting(ActionKind.REFUSE), Setting(ActionKind.RADIO, is_lasting=False), Setting(ActionKind.LOCK),
            Emptying(), Restore(self.vault, self.clock),
        ]  # fmt: skip
        return {deed.kind: deed for deed in found}

    def run(self, job: Callable[[], Any], *, cut_at: int = 0) -> bool:
        """Run `job`; the power goes at its `cut_at`-th step (0: never). Returns whether it did."""
        seen = 0

        def hook(_name: str) -> None:
            nonlocal seen
            seen += 1
            if seen == cut_at:
                raise PowerCut

        self.steps = 0
        try:
            with self._boot(), hooked(hook):
                job()
            self.steps = seen
            return False
        except PowerCut:
            self.steps = seen
            self._lose()
            return True

    def close(self) -> None:
        """The agent stops."""
        self.vault.close()
        self.journal.close()

    def _lose(self) -> None:
        """What an agent had open is gone with it: nothing of its stopping happens."""
        self.vault.store.close()
        with contextlib.suppress(OSError):  # it was just stopping
            self.journal.close()

    def reboot(self, off_s: float) -> None:
        """The device restarts: what does not last is as before."""
        self.boot += 1
        self.clock.wall += off_s
        self.clock.up = 1.0
        for path, (content, mode) in self.volatile.items():
            Path(path).chmod(0o600)
            Path(path).write_text(content)
            Path(path).chmod(mode)

    def recover(self, *, cut_at: int = 0) -> bool:
        return self.run(self.executor.recover, cut_at=cut_at)

    @contextmanager
    def _boot(self) -> Iterator[None]:
        before, tasks.boot_id = tasks.boot_id, lambda: self.boot_id  # type: ignore[assignment]
        try:
            yield
        finally:
            tasks.boot_id = before

    def in_force(self) -> set[str]:
        """What a fresh look at the disk says is in force."""
        store = InForceStore(self.config.state / "actions.json", clock=self.clock, boot_id=self.boot_id)
        return {entry.id for entry in store.all()}

    def says(self) -> dict[str, str]:
        """What the journal says of every action last."""
        found = {}
        for record in self.journal.records():
            if record.kind == "outcome":
                found[str(record.data["id"])] = str(record.data["state"])
        return found

    def is_chained(self) -> bool:
        return verify(self.config.state / "journal") is None

    def file(self, name: str, content: str = "as it was", *, is_volatile: bool = False) -> Path:
        path = self.files / name
        path.write_text(content)
        path.chmod(0o640)
        if is_volatile:
            self.volatile[str(path)] = (content, 0o640)
        return path


def carry_out(executor: Executor, decision: Decision, actions: Iterable[Action]) -> list[Outcome]:
    """Do `actions`, in order; return one outcome for each that was tried."""
    (outcomes,) = carry_out_all(executor, [(decision, tuple(actions))])
    return outcomes


def carry_out_all(executor: Executor, batch: Sequence[Planned]) -> list[list[Outcome]]:
    """As `answer_all`; return the outcomes by decision. Not for an agent that has a line."""
    found: dict[int, list[Outcome]] = {}
    executor.answer_all(batch, lambda number, outcomes: found.update({number: outcomes}), waits=True)
    return [found[number] for number in range(len(batch))]
