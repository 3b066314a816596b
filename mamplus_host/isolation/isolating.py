# SPDX-License-Identifier: Apache-2.0
"""Isolation from all sides: a person here, the enterprise's policy, the dead-man timer; and what `status` says of it.

Journey: control socket, policy, uplink -> [isolating] -> execute -> actions/isolate.

The policy's word stands while it stands: a person here does not lift what the enterprise wants, but the timer does,
for then the enterprise cannot say otherwise; that holds until the policy changes.
"""

from collections.abc import Callable
from typing import Any

from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed, NotPossible
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.network.refusals import POLICY, Network, words
from mamplus_host.ids import new_id
from mamplus_host.isolation.lifeline import Lifeline, Reach
from mamplus_host.policy.policy import Policy
from mamplus_host.verdicts import ActionKind, Escalation, Finding, Outcome, Severity

RULE = "isolation"
MOST_S = 30 * 86_400


class Isolating:
    """The isolation of this device. One thread."""

    def __init__(
        self, config: Config, clock: DeviceClock, network: Network, *, executor: Executor,
        policy: Callable[[], Policy], reach: Callable[[], Reach | None], device_id: Callable[[], str],
        tell: Callable[[Escalation], object],
    ) -> None:  # fmt: skip
        """`device_id`: "" before enrolment. `tell` sends an alert."""
        self._config, self._clock, self._network = config, clock, network
        self._executor, self._policy, self._device_id, self._tell = executor, policy, device_id, tell
        self._lifeline = Lifeline(
            config.state, clock, network, boot_id=clock.boot_id, reach=reach, lift=self._on_silence
        )

    def on(self, for_s: int = 0, reason: str = "") -> dict[str, Any]:
        """Isolate, for `for_s` seconds (0: until it is taken back); what stands is replaced, without a gap."""
        self._want_enforcing()
        if not 0 <= for_s <= MOST_S:
            raise ActionFailed(f"isolation for {for_s} s; want 1 to {MOST_S} s, or no time at all")
        before = self._ids(by="")
        self._start(for_s, reason or "a person on the device wanted it")
        for one in before:
            self._executor.undo(one)
        self._lifeline.look(self._policy().isolation)
        return self.status()

    def off(self) -> dict[str, Any]:
        """Take every isolation back that a person, or the list, wanted; ActionFailed while the policy wants one."""
        for one in self._ids(by=""):
            self._executor.undo(one)
        if self._ids(by=POLICY):
            raise ActionFailed("the enterprise's policy isolates this device (isolation.devices): it lifts it there")
        self._lifeline.look(self._policy().isolation)
        return self.status()

    def tick(self) -> None:
        """Follow the policy, the clock, and apps that were started anew."""
        self._follow()
        self._network.tick()
        self._lifeline.look(self._policy().isolation)

    def status(self) -> dict[str, Any]:
        """Return whether the device is isolated, and what else is refused."""
        network, rules, second = self._network, self._policy().isolation, self._network.second
        found = network.isolation()
        others = [one for one in network.all().values() if one.kind != "isolate"]
        layers = sorted(set(second.layers.values()))
        isolated: dict[str, Any] = {"isolated": False}
        if found is not None:
            action_id, one = found
            isolated = {
                "isolated": not one.is_loosened, "id": action_id, "since": one.since_s, "left_s": network.left_s(one),
                "by": one.by or "a person or the list", "lifeline": ["enterprise", "loopback", *one.lifeline],
                "loosened": one.is_loosened, "dead_man_s": self._lifeline.left_s(rules),
            }  # fmt: skip
        return {
            **isolated, "refused": words(others),
            "second_layer": second.fault or ", ".join(layers) or "nothing to say", "put_back": second.renewed,
        }  # fmt: skip

    def _follow(self) -> None:
        """Do what the policy says of this device, and take back what it no longer says.

        The defaults, which hold while no policy could be read, say nothing: what stands by one stays, as long as the
        device belongs to an enterprise.
        """
        policy = self._policy()
        if not policy.version and self._device_id():
            return
        wants = policy.isolation.names(self._device_id()) and policy.version != self._network.overruled
        standing = self._ids(by=POLICY)
        if wants and not standing and self._config.agent.mode == "enforce":
            self._start(0, f"version {policy.version} of the enterprise's policy wants it", by=POLICY)
        elif not wants:
            for one in standing:
                self._executor.undo(one)

    def _start(self, for_s: int, why: str, *, by: str = "") -> Outcome:
        target = {"lifeline": list(self._policy().isolation.lifeline), "ttl_s": for_s, "by": by}
        return self._executor.start(ActionKind.ISOLATE, target, ttl_s=for_s, why=why)

    def _ids(self, *, by: str) -> list[str]:
        found = self._network.all().items()
        return [action_id for action_id, one in found if one.kind == "isolate" and one.by == by]

    def _want_enforcing(self) -> None:
        if self._config.agent.mode == "monitor":
            raise NotPossible('the agent only watches: [agent] mode = "monitor"; set it to "enforce" to isolate')

    def _on_silence(self, action_id: str, why: str) -> None:
        """The timer ends an isolation: it is told, to whom it may reach now."""
        if action_id in self._ids(by=POLICY):
            self._network.overruled = self._policy().version  # written with the undo, in one piece
        self._executor.undo(action_id)
        at_s = self._clock.wall_s()
        self._tell(
            Escalation(
                id=new_id(at_s), kind=RULE, finding=Finding.SUSPECTED, severity=Severity.HIGH, at=at_s,
                boot_ns=self._clock.boot_ns(), generation=0, rule=RULE,
                summary=f"isolation of this device was lifted: {why}", evidence={"action": action_id},
            )
        )  # fmt: skip
