# SPDX-License-Identifier: Apache-2.0
"""Takes the device off the network but for a lifeline, and puts it back: isolation/lifeline.py has the timer.

What stays: loopback, the enterprise and what else is guarded, and to the system's own programs (users below 1000)
DNS, DHCP and NTP, as the policy declares. In both directions, for connections that stand, too.
"""

from typing import Any

import msgspec

from mamplus_host.executor.actions.refuse import begin, end, seen
from mamplus_host.executor.network.refusals import Network, Refusal
from mamplus_host.executor.shape import Facts, State
from mamplus_host.kernel.refusals import LIFELINE
from mamplus_host.verdicts import ActionKind


class Isolate:
    """Target: `lifeline`, of refusals.LIFELINE (else the policy's), `ttl_s` (0: no end), `by`: who wants it."""

    kind = ActionKind.ISOLATE
    has_inverse = True

    def __init__(self, network: Network) -> None:
        self._network = network

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        lifeline = tuple(name for name in target.get("lifeline", self._network.lifeline) if name in LIFELINE)
        ttl_s, by = int(target.get("ttl_s", 0)), str(target.get("by", ""))
        refusal = Refusal(kind="isolate", ttl_s=ttl_s, by=by, lifeline=lifeline)
        return {"id": action_id, "refusal": msgspec.to_builtins(refusal)}

    def do(self, facts: Facts) -> str:
        begin(self._network, facts)
        lifeline = facts["refusal"]["lifeline"]
        return f"isolated; the lifeline is the enterprise, loopback{''.join(f', {name.upper()}' for name in lifeline)}"

    def undo(self, facts: Facts) -> str:
        end(self._network, facts)
        return "on the network again"

    def verify(self, facts: Facts) -> State:
        return seen(self._network, facts)
