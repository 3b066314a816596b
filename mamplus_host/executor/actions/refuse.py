# SPDX-License-Identifier: Apache-2.0
"""Refuses the network to an app, a host to everybody, or all but the enterprise; and lets it through again.

The hooks carry it out, also for connections that stand, and go on while no agent runs; what of it has a time limit
ends there by itself. Loopback and what is guarded stay open in every case.
"""

import math
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.ble.entry import unmapped
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.refusals import Network, Refusal, words
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.verdicts import ActionKind


class Refuse:
    """Target: `address`; or `all`: true; or `tgid` and `boot_ns`, the process's app is meant.

    `ttl_s`: 0 is no end, which `all` must have.
    """

    kind = ActionKind.REFUSE
    has_inverse = True

    def __init__(self, network: Network, processes: Processes, guarded: GuardSet) -> None:
        self._network, self._processes, self._guarded = network, processes, guarded

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        ttl_s = int(target.get("ttl_s", 0))
        if target.get("all"):
            if ttl_s <= 0:  # no dead-man timer watches it: without an end a device could be lost for good
                raise ActionFailed(
                    "refusing all but the enterprise needs a time limit (ttl_s);"
                    " without one, isolate: `mamplus isolate on`"
                )
            refusal = Refusal(kind="all", ttl_s=ttl_s)
        elif target.get("address"):
            refusal = Refusal(kind="host", what=self._host(str(target["address"])), ttl_s=ttl_s)
        else:
            app = self._processes.app(target["tgid"], target["boot_ns"])
            refusal = Refusal(kind="app", what=str(app), ttl_s=ttl_s)
        return {"id": action_id, "refusal": msgspec.to_builtins(refusal)}

    def do(self, facts: Facts) -> str:
        refusal = refusal_of(facts)
        begin(self._network, facts)
        return f"refused: {words([refusal])[0]}"

    def undo(self, facts: Facts) -> str:
        end(self._network, facts)
        return f"no longer refused: {words([refusal_of(facts)])[0]}"

    def verify(self, facts: Facts) -> State:
        return seen(self._network, facts)

    def _host(self, text: str) -> str:
        try:
            address = unmapped(ip_address(text))
        except ValueError:
            raise ActionFailed(f"{text!r} is no address; want one like 192.0.2.1 or 2001:db8::1") from None
        if address.is_loopback or address.is_unspecified:
            raise ActionFailed(f"{text} is this device itself: refusing it would refuse nothing but its own programs")
        self._guarded.refuse_address(str(address))
        return str(address)


def refusal_of(facts: Facts) -> Refusal:
    """Return what the facts of a refusal or an isolation say."""
    return msgspec.convert(facts["refusal"], Refusal)


def begin(network: Network, facts: Facts) -> None:
    """Note the refusal, then have the hooks carry it out; ActionFailed where no hooks are."""
    network.put(facts["id"], refusal_of(facts))
    step("refused: noted")
    network.enforce()
    if network.holds(refusal_of(facts)) is None:
        raise ActionFailed("no hook of the agent is attached: nothing here could refuse; start the agent")


def end(network: Network, facts: Facts) -> None:
    """Forget the refusal, then have the hooks follow."""
    network.drop(facts["id"])
    step("refused: forgotten")
    network.enforce()


def seen(network: Network, facts: Facts) -> State:
    """Look at the hooks; what another action refuses, too, is undone for this one when it is not noted any more."""
    refusal, noted = refusal_of(facts), network.get(facts["id"])
    holds = network.holds(refusal)
    if noted is None:
        return State.BETWEEN if holds and not network.is_wanted(refusal) and _is_there(refusal) else State.UNDONE
    return State.DONE if holds or noted.is_loosened else State.BETWEEN


def standing(network: Network) -> dict[str, tuple[Facts, int]]:
    """Return facts and time limit (0: none) of all that is refused, by the action's id."""
    found = {}
    for action_id, refusal in network.all().items():
        left_s = network.left_s(refusal)
        ttl_s = 0 if left_s is None else max(1, math.ceil(left_s))
        found[action_id] = ({"id": action_id, "refusal": msgspec.to_builtins(refusal)}, ttl_s)
    return found


def _is_there(refusal: Refusal) -> bool:
    """Whether an app has a cgroup at all; everything else always is."""
    return refusal.kind != "app" or Path(refusal.what).is_dir()
