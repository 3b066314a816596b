# SPDX-License-Identifier: Apache-2.0
"""Carries out the age ladder: the kernel's posture, and one alert a step.

Journey: clock, policy -> [aging] -> kernel posture, ledger.
"""

import msgspec

from mamplus_host.ble import standing
from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config, ExecPolicy
from mamplus_host.generations import age
from mamplus_host.generations.age import Aged
from mamplus_host.generations.ledger import Ledger
from mamplus_host.kernel.tables import Tables
from mamplus_host.policy.policy import AgeLadder
from mamplus_host.policy.standing import Standing
from mamplus_host.verdicts import Severity


class Aging:
    """Where the list in force stands on the ladder."""

    def __init__(self, config: Config, *, clock: DeviceClock, tables: Tables, ledger: Ledger) -> None:
        self._config, self._clock, self._tables, self._ledger = config, clock, tables, ledger
        self.now = Aged()
        self._standing = Standing()

    @property
    def declared(self) -> ExecPolicy:
        """The declared answers of the exec control that hold now."""
        return self.now.declared(self._standing.declared(self._config.exec))

    def stand(self, standing: Standing) -> None:
        """Have the kernel follow what the policy declares for when the agent, the responder or a hash is missing."""
        if standing != self._standing:
            self._standing = standing
            self._set_posture()

    def look(self, generation: int, ladder: AgeLadder, *, superseded_s: int = 0) -> None:
        """Do what the age of the list in force asks for; `generation` is its number.

        `superseded_s`: when the enterprise made the next one, where that is kept out; 0: this is the newest.
        """
        age_s = self._clock.age_s()
        if superseded_s:
            age_s = max(age_s, self._clock.list_s() - superseded_s)
        now = age.aged(age_s, ladder)
        if now != self.now:
            self.now = now
            self._set_posture()
        if now.step != self._ledger.standing.told_step:
            self._step(now, age_s, generation)

    def _set_posture(self) -> None:
        config = msgspec.structs.replace(self._config, exec=self.declared)
        self._tables.set_posture(config, suspect_as_block=self.now.suspect_as_block, standing=self._standing)

    def _step(self, now: Aged, age_s: float, generation: int) -> None:
        ledger, telling = self._ledger, None
        if now.step > ledger.standing.told_step and age.REPORT in now.effects:
            summary = (
                f"the list is {now.step.label}: its enterprise proved {age.in_words(age_s)} ago for the last time that"
                f" generation {generation} is its newest; it is enforced all the same"
            )
            evidence = {"age_s": round(age_s), "effects": list(now.effects)}
            telling = ledger.telling("list-age", Severity(int(now.step) + 1), summary, generation, evidence)
        ledger.keep(standing.aged(ledger.standing, int(now.step), telling))
        ledger.note("list age", step=now.step.label, age_s=round(age_s), effects=list(now.effects))
