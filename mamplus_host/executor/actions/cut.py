# SPDX-License-Identifier: Apache-2.0
"""Cuts connections that stand: of a process, of its app, or with a host. TCP and UDP, IPv4 and IPv6.

The sockets are destroyed (sock_diag, Linux 4.5 with CONFIG_INET_DIAG_DESTROY: their programs get ECONNABORTED), and
the kernel's memory of the connections with them (conntrack), which is also how those that this device forwards end.
What cannot be destroyed is told, and stands: refuse the app or the host then. What the program does next is not this
action's: it may connect again. The way to the enterprise and guarded processes are left out, whoever asks.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor import helper
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.netfilter import OWN
from mamplus_host.executor.network.sockets import Found, Order
from mamplus_host.executor.processes.cgroups import members
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.shape import Facts, State
from mamplus_host.verdicts import ActionKind

HELPER_S = 30.0
KEPT = 512  # sockets that the facts name; the others are cut all the same, and not verified


class Cut:
    """Target: `address` (and `port`: that alone); or `tgid` and `boot_ns` (and `app`: true, the whole app)."""

    kind = ActionKind.CUT
    has_inverse = False
    is_slow = True

    def __init__(
        self, processes: Processes, guarded: GuardSet, netns: tuple[str, ...], *, alive: Callable[[], object] = int
    ) -> None:
        """`alive` is called while a helper looks and cuts: the watchdog must not end the agent meanwhile."""
        self._processes, self._guarded, self._netns, self._alive = processes, guarded, netns, alive

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        order = self._order(target)
        found = self._run("look", order)
        return {"order": msgspec.to_builtins(order), "cookies": [one.cookie for one in found.sockets[:KEPT]]}

    def do(self, facts: Facts) -> str:
        order = msgspec.convert(facts["order"], Order)
        found = self._run("cut", order)
        what = f"cut {len(found.sockets) - len(found.standing)} of {len(found.sockets)} connections"
        if found.forgotten:
            what += f", and made the kernel forget {found.forgotten}"
        if found.standing:
            raise ActionFailed(f"{what}; the others stand: {found.why or 'this kernel does not destroy them'}")
        return f"{what} (tier: {found.tier})"

    def undo(self, _facts: Facts) -> str:
        raise ActionFailed("a connection that was cut does not come back; its program connects again")

    def verify(self, facts: Facts) -> State:
        order = msgspec.convert(facts["order"], Order)
        standing = {one.cookie for one in self._run("look", order).sockets} & set(facts["cookies"])
        if not standing:
            return State.DONE
        return State.UNDONE if len(standing) == len(facts["cookies"]) else State.BETWEEN

    def _order(self, target: dict[str, Any]) -> Order:
        never = [(str(address), port) for address, port in self._guarded.never()]
        if target.get("address"):
            address, port = str(target["address"]), int(target.get("port", 0))
            self._guarded.refuse_address(address, port)
            spared = sorted(self._guarded.numbers())
            return Order(address=address, port=port, never=never, spared=spared, netns=list(self._netns or (OWN,)))
        app = self._processes.app(target["tgid"], target["boot_ns"]) if target.get("app") else None
        start_ns = self._processes.start_of(target["tgid"], target["boot_ns"])
        tgids = members(app) if app else {target["tgid"]}
        spared = sorted(self._guarded.among(tgids))
        return Order(tgid=target["tgid"], start_ns=start_ns, app=str(app or ""), never=never, spared=spared)

    def _run(self, command: str, order: Order) -> Found:
        """Have the helper look for the connections, or cut them; ActionFailed in its own words."""
        late = f"cannot {command} connections: the kernel did not answer within {HELPER_S:g} s"
        told = msgspec.json.encode(order)
        said = helper.run("network.sockets_helper", command, within_s=HELPER_S, late=late, told=told, alive=self._alive)
        return msgspec.json.decode(said, type=Found)
