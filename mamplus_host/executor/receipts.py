# SPDX-License-Identifier: Apache-2.0
"""Receipts of what was done by order, signed with the device's key: `state/receipts/ID.json`, and each is told once.

Journey: wipe, ordering -> [receipts] -> service -> outbox.
"""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mamplus_host.clock import Clock
from mamplus_host.files import write_whole
from mamplus_host.verdicts import Escalation, Finding, Severity

Sign = Callable[[bytes], bytes]


class Receipts:
    """One directory of receipts."""

    def __init__(self, directory: Path, sign: Callable[[], Sign]) -> None:
        """`sign` returns what signs, once one is needed: the device's key is not loaded before."""
        self._directory, self._sign = directory, sign

    def write(self, action_id: str, facts: dict[str, Any]) -> None:
        """Keep what was done, signed: the bytes in `receipt` are what `signature` is over."""
        said = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        signature = base64.b64encode(self._sign()(b"mamplus-receipt\n" + said.encode())).decode()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keep(action_id, {"receipt": said, "signature": signature, "told": False})

    def has(self, action_id: str) -> bool:
        return (self._directory / f"{action_id}.json").exists()

    def untold(self) -> dict[str, dict[str, Any]]:
        """Return the receipts that the enterprise was not told of, by the id of their action; a damaged one is none."""
        found = {}
        for path in sorted(self._directory.glob("*.json")):
            with suppress(ValueError, KeyError, TypeError):
                kept = json.loads(path.read_bytes())
                if not kept["told"] and json.loads(kept["receipt"])["order"]:
                    found[path.stem] = kept
        return found

    def told(self, action_id: str, is_told: bool = True) -> None:
        """Note that a receipt is in the outbox, or is to go there again."""
        kept = json.loads((self._directory / f"{action_id}.json").read_bytes())
        self._keep(action_id, {**kept, "told": is_told})

    def of_order(self, order_id: str) -> str:
        """Return the id of the action that an order's receipt is about, "" when there is none."""
        for path in sorted(self._directory.glob("*.json")):
            with suppress(ValueError, KeyError, TypeError):
                if json.loads(json.loads(path.read_bytes())["receipt"])["order"] == order_id:
                    return path.stem
        return ""

    def _keep(self, action_id: str, kept: dict[str, Any]) -> None:
        write_whole(self._directory / f"{action_id}.json", json.dumps(kept).encode("ascii"))


def signature_of(state: Path) -> Sign:
    """Return what signs with the device's key; EnrollRefused when there is none."""
    from mamplus_host.outbox.identity import Identity  # libcrypto: only a wipe needs it here

    return Identity.load(state).sign


def told_of(action_id: str, kept: dict[str, Any], clock: Clock) -> Escalation:
    """Return what the enterprise is told of a receipt; the same one twice has the same id."""
    receipt = json.loads(kept["receipt"])
    kind = receipt.get("what", "wipe")
    done = {"wipe": "the professional container was wiped"}.get(kind, f"{kind}: {receipt.get('detail', '')}")
    return Escalation(
        id=action_id.partition("-")[0], kind="wipe" if kind == "wipe" else "order", finding=Finding.CONFIRMED,
        severity=Severity.HIGH, at=clock.wall_s(), boot_ns=clock.boot_ns(), generation=0, rule="order",
        summary=f"{done}, by order {receipt['order']}",
        evidence={"receipt": kept["receipt"], "signature": kept["signature"]},
    )  # fmt: skip
