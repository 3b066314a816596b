# SPDX-License-Identifier: Apache-2.0
"""`mamplus ble accept`, and what `mamplus ble show` says above the list: held, rolled back, age."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mamplus_host.ble import standing
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.cli.state import CLI, ERR, OUT
from mamplus_host.clock import DeviceClock
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable
from mamplus_host.generations import age
from mamplus_host.policy import policy


def accept(
    number: Annotated[
        int, typer.Argument(metavar="N", help="The newest generation, which is held or was rolled back.")
    ],
) -> None:
    """Take generation N although the shadow load held it, or the dead-man timer rolled it back.

    The dead-man timer runs for it all the same.
    """
    try:
        done = client.call(CLI.config.control_socket, "accept", number=number)
        OUT.print(f"enforcing generation {done['generation']}")
    except AgentUnreachable:
        state = CLI.config.state
        standing.accept_offline(state, number, newest=newest(state))
        ERR.print("No agent runs: the next one enforces it.", style="dim")


def newest(state: Path) -> int:
    """Return the newest installed generation, in force or not; 0: none."""
    return next((record.number for record in BleStore(state).records()), 0)


def open_in_force(state: Path) -> Stack | None:
    """Open the list that this device enforces, or that its next agent will; None when there is none.

    The newest generation, unless it is kept out: then what is in force.
    """
    store, (kept, _fault) = BleStore(state), standing.read(state)
    forced = policy.load(state)[0].forced_generation
    records = store.records()
    let_in = [record.state for record in records if not kept.keeps_out(record, forced)]
    if let_in and let_in[0] == records[0].state:
        return store.current()
    for one in (kept.state, *let_in):  # held and still in force: a list is better than none
        if one and (ble := store.open_state(one)) is not None:
            return ble
    return store.current()


def open_kept_out(state: Path) -> tuple[Stack, str] | None:
    """Open the newest generation when it is kept out, with how ("held", "rolled back"); None when it is not."""
    kept, store = standing.read(state)[0], BleStore(state)
    record = next(iter(store.records()), None)
    forced = policy.load(state)[0].forced_generation
    if record is None or record.state == kept.state or not kept.keeps_out(record, forced):
        return None
    ble = store.open_state(record.state)
    return (ble, "rolled back" if kept.is_bad(record) else "held") if ble is not None else None


def facts(state: Path) -> dict[str, Any]:
    """Return what is held, rolled back and proved, as plain values."""
    kept, fault = standing.read(state)
    clock = DeviceClock(state)
    chosen, policy_fault = policy.load(state)
    clock.ahead_s = float(chosen.clock_ahead_s)
    proved_s = clock.age_s()
    return {
        "in_force": kept.number,
        "held": {"generation": kept.held.number, "why": kept.held.why, "at": kept.held.at_s} if kept.held else None,
        "rolled_back": list(kept.bad),
        "age": age.aged(proved_s, chosen.age).step.label if clock.signed_s else "unknown",
        "proved_s_ago": round(proved_s),
        "policy": chosen.version,
        "fault": fault or policy_fault,
    }


def lines(found: dict[str, Any], newest_number: int) -> list[str]:
    """Return `facts` as sentences; none where everything is as it should be."""
    said = []
    if found["age"] not in ("fresh", "unknown"):
        said.append(f"{found['age']}: last proved to be the newest {age.in_words(found['proved_s_ago'])} ago")
    held = found["held"]
    if held:
        when = datetime.fromtimestamp(held["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        number = held["generation"]
        said.append(f"generation {number} is held since {when}: {held['why']}; to take it: mamplus ble accept {number}")
    if newest_number in found["rolled_back"]:
        said.append(f"generation {newest_number} was rolled back: the enterprise was not reached after it")
    if found["in_force"] not in (0, newest_number):
        said.append(f"in force: generation {found['in_force']}")
    if found["fault"]:
        said.append(found["fault"])
    return said
