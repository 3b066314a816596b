# SPDX-License-Identifier: Apache-2.0
"""Who rewrites many protected files, and is stopped before anything else is done.

Journey: protecting (what was touched) -> [judging] -> stopping; a mass rewrite -> pipeline.

A suspect is stopped first and judged then: whom somebody answers for goes on at once.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec

from mamplus_host.analyzer.mass import MassRewrites, Suspect
from mamplus_host.analyzer.scrambled import LOOKED_AT_BYTES, looks_scrambled
from mamplus_host.clock import Clock
from mamplus_host.collector.files import Touch
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed
from mamplus_host.events import MassRewrite
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.executor.vault import files as vault_files
from mamplus_host.executor.vault.vault import FAILURES, Vault
from mamplus_host.protected.package_managers import PackageManagers

_SAMPLES = 8  # files of a mass rewrite whose contents are compared, for evidence
_NS = 1_000_000_000


class Judging:
    """The families that touch protected files, and the suspects among them."""

    def __init__(
        self, config: Config, vault: Vault, *, clock: Clock, stopper: Stopper, managers: PackageManagers,
        ancestors: Callable[[int], list[int]], who: Callable[[int, int], str],
    ) -> None:  # fmt: skip
        """`ancestors` as `Protecting` has it; `who` answers for what a process does at a time (`accepting`)."""
        self._config, self._vault, self._clock = config, vault, clock
        self._stopper, self._managers, self._ancestors, self._who = stopper, managers, ancestors, who
        rules = config.vault
        self._mass = MassRewrites(files=rules.mass_files, window_ns=int(rules.mass_window_s * _NS))
        self._suspects: list[MassRewrite] = []

    def glance(self, touches: list[Touch]) -> None:
        """Take in touches of protected files, and stop who rewrites many."""
        now = self._clock.boot_ns()
        self._judge(self._mass.note(touches, now, self._differs), now)

    def look_at_families(self) -> None:
        """Stop a family whose members together rewrite many."""
        now = self._clock.boot_ns()
        self._judge(self._mass.families(now, self._ancestors), now)

    def take(self) -> list[MassRewrite]:
        """Return what was found since the last time."""
        suspects, self._suspects = self._suspects, []
        return suspects

    def scrambled(self, paths: Iterable[str]) -> int:
        """Return how many of the first few files look encrypted now."""
        found = 0
        for path in list(paths)[:_SAMPLES]:
            with suppress(*FAILURES):
                descriptor = vault_files.look(path)  # a pipe or a device may stand there by now: opening those acts
                try:
                    after = os.pread(descriptor, LOOKED_AT_BYTES, 0)
                finally:
                    os.close(descriptor)
                found += looks_scrambled(self._vault.beginning(path, LOOKED_AT_BYTES), after)
        return found

    def _judge(self, suspect: Suspect | None, now: int) -> None:
        if suspect is None or self._who(0, now) or self._managers.runs_in(suspect.tgid):
            return
        self._mass.forget(suspect.tgid)
        if self._has_more_of(suspect):
            return
        held = self._stopper.stopped
        stopped = self._stop(suspect, now)  # before it is asked who started it: that takes as long as many files do
        if self._who(suspect.tgid, now):
            self._stopper.go_on(but=held)
            return
        evidence = self.scrambled(suspect.paths)
        self._suspects.append(
            MassRewrite(boot_ns=now, paths=suspect.paths, tgid=suspect.tgid, stopped=stopped, scrambled=evidence)
        )

    def _has_more_of(self, suspect: Suspect) -> bool:
        """Say whether a suspect stands still already: then this is what it did before, read from the queue by now."""
        for number, one in enumerate(self._suspects):
            if one.tgid == suspect.tgid and one.tgid in self._stopper.stopped:
                self._suspects[number] = msgspec.structs.replace(one, paths=one.paths + suspect.paths)
                return True
        return False

    def _stop(self, suspect: Suspect, now: int) -> str:
        if self._config.agent.mode == "monitor":
            return "not stopped: the agent only watches"
        if not suspect.tgid:
            return "not stopped: this kernel does not say who it was"
        try:
            count = self._stopper.stop(suspect.tgid, now)
        except ActionFailed as error:
            return f"not stopped: {error}"
        return f"{count} processes were stopped after {len(suspect.paths)} files"

    def _differs(self, path: str) -> bool:
        return not self._vault.looks_intact(path)
