# SPDX-License-Identifier: Apache-2.0
"""Vault, watch and restorer as the service joins them, on a tree of a tmpfs; for tests of protected files."""

import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import Config, cgroup_path
from mamplus_host.errors import ActionFailed
from mamplus_host.events import FileChange, MassRewrite
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.protected.brake import Brake, Spared
from mamplus_host.protected.package_managers import PackageManagers
from mamplus_host.protected.protecting import Protecting
from tests.kernel import acts


class Clock(SystemClock):
    ahead_s = 0.0

    def boot_ns(self) -> int:
        return super().boot_ns() + int(self.ahead_s * 1e9)


class Device:
    """Vault, watch and restorer, as the service joins them."""

    def __init__(self, config: Config, manager: Path, braked_after: int = 1000) -> None:
        self.config, self.clock = config, Clock()
        config.state.mkdir(exist_ok=True)
        self.told: list[str] = []
        self.journal: list[dict[str, object]] = []
        self.vault = Vault(config.state / "vault", limits=config.limits, clock=self.clock)
        self.restorer = Restore(self.vault, self.clock)
        self.maintenance = False
        self.writers: set[int] = set()  # programs that the policy names
        guarded = GuardSet.of_pids([os.getpid()])
        self.stopper = Stopper(config.state, Processes.of(config, guarded))
        managers = PackageManagers(programs=[str(manager)])
        self.programs: tuple[str, ...] = ()  # the guard set's
        self.brake = Brake(config.state / "braked", files=braked_after, window_s=60.0, spared=lambda: Spared(
            scope=cgroup_path(config), tgids=guarded.numbers(), units=(), programs=self.programs,
            managers=managers.programs,
        ))  # fmt: skip
        self.protecting = Protecting(
            config, self.vault, clock=self.clock, boot_id="boot", stopper=self.stopper,
            brake=self.brake, managers=managers, ancestors=lambda _tgid: [],
            covers=lambda _boot_ns: self.maintenance, note=self.journal.append,
            told=lambda rule, _summary: self.told.append(rule), allows=lambda change: change.tgid in self.writers,
        )  # fmt: skip

    def turn(self, *, waits: bool = True, settles: bool = True) -> list[MassRewrite]:
        """What the loop does with what was touched; return the mass rewrites."""
        if waits:
            select.select([self.protecting.files], [], [], 5)
        mass = []
        for event in self.protecting.read():
            if isinstance(event, MassRewrite):
                mass.append(event)
            else:
                self.treat(event)
        if settles:
            self.protecting.settle()
        return mass

    def treat(self, change: FileChange) -> None:
        path = change.path
        self.protecting.accepting.doubt(change)
        if self.vault.is_protected(path) and not self.vault.is_suspended(path) and not self.vault.intact(path):
            if self.protecting.accepting.may(change):
                return
            try:
                self.restorer.do(self.restorer.prepare("test", {"path": path}))
            except ActionFailed:
                return
        if self.vault.is_protected(path):
            self.protecting.rewatch(path)

    def tick(self, seconds: float = 60.0) -> None:
        """Let time go by until what no event told is found: with the second look."""
        self.clock.ahead_s += seconds
        for _look in range(2):
            for change in self.protecting.tick():
                self.treat(change)
        self.protecting.settle()

    def holds(self, path: Path) -> tuple[str, str]:
        """Return what is at `path`, and what should be there."""
        return path.read_text(), self.vault.beginning(str(path), 100).decode()

    def close(self) -> None:
        self.protecting.close()
        self.vault.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with acts.own_tmpfs() as path:
        yield path


@pytest.fixture
def manager(place: Path) -> Path:
    """A program that stands for the package manager's: it runs what it is given, and waits."""
    path = place / "manager"
    shutil.copy("/bin/dash", path)
    return path


@pytest.fixture
def device(tmp_path: Path, manager: Path) -> Iterator[Device]:
    with acts.own_cgroup() as scope:
        one = Device(acts.config_for(tmp_path / "state", scope), manager)
        yield one
        one.close()


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    path.mkdir()
    (path / "old").write_text("as deployed")
    return path


def by_another(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=20)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def sh(text: str) -> None:
    by_another("/bin/sh", "-c", text)
