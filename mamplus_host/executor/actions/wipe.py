# SPDX-License-Identifier: Apache-2.0
"""Selective wipe: the professional container ends, and nothing else; by a signed order of the enterprise alone.

Journey: order -> execute -> [wipe] -> luks, fscrypt, wipe_helper; the receipt -> enterprise.

Keys first, for that is what counts and takes a second: key slots of LUKS2 containers, keys of encrypted directories
and the pages that wrap them. Then names and blocks. What is wiped was looked at and journalled before (containers by
their UUID), and stands in [container] of the configuration; each step can be repeated, so after a power cut the
next start goes on. Neither list nor policy can name this action. There is no inverse.

What is not plugged in or not mounted is not wiped, and does not spare the rest: it is in the receipt as missing.
The receipt says which steps were taken, and is signed with the device's key.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamplus_host.clock import Clock
from mamplus_host.config import Container
from mamplus_host.errors import ActionFailed, CodeRejected
from mamplus_host.executor import helper
from mamplus_host.executor.actions.container_lock import gone, look, shut
from mamplus_host.executor.receipts import Receipts
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.storage import fscrypt, luks
from mamplus_host.executor.storage.mounts import INIT
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Orders
from mamplus_host.verdicts import ActionKind

HELPER_S = 3600.0  # for one directory or device


class Wipe:
    """The deed."""

    kind = ActionKind.WIPE
    has_inverse = False
    is_slow = True

    def __init__(
        self, container: Container, order_book: Orders, receipts: Receipts, *, clock: Clock,
        sys_root: Path = Path("/sys"), process: Path = INIT, alive: Callable[[], object] = int,
    ) -> None:  # fmt: skip
        """`alive` is called while a long step runs: the watchdog must not end the agent meanwhile."""
        self._container, self._orders, self._receipts, self._clock = container, order_book, receipts, clock
        self._sys, self._process, self._alive = sys_root, process, alive

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `order`, the text that the enterprise signed."""
        text = str(target.get("order") or "")
        if not text:
            raise ActionFailed("a wipe needs an order of the enterprise: mamplus-enterprise wipe DEVICE")
        try:
            order = self._orders.accept(text, orders.WIPE)
        except CodeRejected as error:
            raise ActionFailed(f"nothing was wiped: {error}") from None
        if self._container.is_empty:
            raise ActionFailed("no professional container is configured; there is nothing to wipe: see [container]")
        paths = [{"path": path} for path in self._container.paths]
        made_of = look(self._container, self._process, self._sys)
        if not (made_of["luks"] or made_of["fscrypt"] or paths):
            raise ActionFailed(f"nothing was wiped: {gone(made_of)}")
        return {"id": action_id, "order": text, "order_id": order.id, **made_of, "paths": paths}

    def do(self, facts: Facts) -> str:
        order, _data, _signature = orders.read(facts["order"])
        self._want_configured(facts)
        self._orders.mark(order)
        taken, failed = list[dict[str, Any]](), list[str]()
        for what, work in self._work(facts):
            step(f"wipe.{what.split()[0]}")
            try:
                taken.append({"what": what, **work()})
            except (ActionFailed, OSError, ValueError) as error:  # what is missing or broken does not spare the rest
                failed.append(f"{what}: {error}")
        if failed:
            raise ActionFailed(f"order {order.id} wiped all but {'; '.join(failed)}; another order tries those again")
        step("wipe.receipt")
        missing = facts.get("missing", [])  # facts of an older release have none
        done = {
            "order": order.id, "device": order.device, "at": self._clock.wall_s(), "steps": taken, "missing": missing,
        }  # fmt: skip
        self._receipts.write(facts["id"], done)
        notes = [f"{one['what']}: {one['note']}" for one in taken if one.get("note")]
        if missing:
            notes.append(f"not there and not wiped: {', '.join(map(repr, missing))}; that needs another order")
        return "; ".join([f"wiped the professional container by order {order.id}", *notes])

    def _want_configured(self, facts: Facts) -> None:
        """What is not in the configuration is not wiped, whatever the journal says."""
        for name in ("luks", "fscrypt", "paths"):
            for one in facts[name]:
                if one["path"] not in getattr(self._container, name):
                    raise ActionFailed(f"{one['path']!r} is not in [container] {name}: it is not wiped")

    def _work(self, facts: Facts) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """Return the steps in order: keys, then names, then blocks."""
        keys = [(f"keys of {one['path']}", lambda one=one: self._erase(one)) for one in facts["luks"]]
        keys += [(f"keys of {one['path']}", lambda one=one: self._forget(one)) for one in facts["fscrypt"]]
        trees = [*facts["fscrypt"], *facts["paths"]]
        names = [(f"content of {one['path']}", lambda one=one: self._help("tree", one["path"])) for one in trees]
        blocks = [(f"blocks of {one['path']}", lambda one=one: self._release(one)) for one in facts["luks"]]
        blocks += [(f"blocks of {one['path']}", lambda one=one: self._trim(one["path"])) for one in trees]
        return [*keys, *names, *blocks]

    def _erase(self, one: dict[str, str]) -> dict[str, Any]:
        """Destroy the key slots; then take the key out of the kernel's memory."""
        if luks.is_there(one["path"], one["uuid"]):
            luks.erase(one["path"], self._process)
        step("wipe.erased")
        closed = [shut(name, self._process, self._sys) for name in luks.mappings(one["uuid"], self._sys)]
        return {"slots": luks.key_slots(one["path"]), "note": "; ".join(closed)}

    def _forget(self, one: dict[str, str]) -> dict[str, Any]:
        self._help("file", str(fscrypt.wrapped(one["path"], one["key"])))
        step("wipe.unwrapped")
        left = fscrypt.remove(one["path"], one["key"])
        return {"key": left.name.lower(), "note": "" if left is fscrypt.Key.ABSENT else "files are still open there"}

    def _release(self, one: dict[str, str]) -> dict[str, Any]:
        """Give the blocks of a container back, unless another one lies there by now."""
        is_ours = luks.is_there(one["path"], one["uuid"])
        return self._help("device", one["path"]) if is_ours else {"note": "no header is there any more"}

    def _trim(self, path: str) -> dict[str, Any]:
        return self._help("trim", path) if Path(path).is_dir() else {"note": "was not there"}

    def undo(self, facts: Facts) -> str:
        raise ActionFailed(f"what order {facts['order_id']} wiped is gone; restore it from the enterprise's backup")

    def verify(self, facts: Facts) -> State:
        gone = [self._is_noise(one) for one in facts["luks"]]
        gone += [fscrypt.status(one["path"], one["key"]) is fscrypt.Key.ABSENT for one in facts["fscrypt"]]
        gone += [_is_empty(one["path"]) for one in (*facts["fscrypt"], *facts["paths"])]
        if all(gone) and self._receipts.has(facts["id"]):
            return State.DONE
        return State.BETWEEN if any(gone) or self._orders.is_marked(facts["order_id"]) else State.UNDONE

    def _is_noise(self, one: dict[str, str]) -> bool:
        is_open = any(not luks.is_suspended(name, self._sys) for name in luks.mappings(one["uuid"], self._sys))
        return not is_open and (not luks.is_there(one["path"], one["uuid"]) or not luks.key_slots(one["path"]))

    def _help(self, command: str, path: str) -> dict[str, Any]:
        late = f"{path!r} was not wiped within {HELPER_S:g} s; the next try goes on"
        said = helper.run(
            "storage.wipe_helper", str(self._process / "ns/mnt"), command, path, within_s=HELPER_S, late=late,
            what="cannot wipe ", alive=self._alive,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(said)
        return answer


def _is_empty(path: str) -> bool:
    place = Path(path)
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))
