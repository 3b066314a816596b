# SPDX-License-Identifier: Apache-2.0
"""`mamplus ble load|refresh --dry-run`: verified, asked what it would newly block, and nothing kept."""

from typing import Any

import msgspec

from mamplus_host.ble import standing, update
from mamplus_host.ble.shadow import Shadow
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.update import Prepared
from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.clock import DeviceClock
from mamplus_host.config import cgroup_dir
from mamplus_host.control import client
from mamplus_host.enterprise import load_enterprise
from mamplus_host.errors import AgentUnreachable, ConfigInvalid
from mamplus_host.generations.trying import Situation, try_out
from mamplus_host.policy import policy


def run(source: str | None, *, as_json: bool) -> None:
    """Say what the generation at `source` (None: the enterprise's) would newly block on this device."""
    situation = _situation()
    with ERR.status("fetching and verifying ..."):
        prepared = update.prepare(CLI.config.state, source=source)
    try:
        said = _asked(prepared, situation)
    finally:
        BleStore(CLI.config.state).discard(prepared.fresh)
    is_held = said.is_too_much(situation.limit) and situation.in_force != 0
    if as_json:
        print_json(_plain(prepared, said, is_held=is_held))
        return
    record = prepared.record
    if not prepared.new:
        OUT.print(f"nothing newer: generation {record.number} is installed")
    verdict = f"it would be held (at most {situation.limit}, and no lifeline)" if is_held else "it would be taken"
    OUT.print(f"generation {record.number}, {record.entries} entries, would newly block {said.in_words()}: {verdict}")
    for one in said.examples:
        mark = "lifeline  " if one.is_lifeline else "          "
        OUT.print(f"  {mark}{safe(one.kind)} {safe(one.value)}  {safe(one.by)}", soft_wrap=True)


def _asked(prepared: Prepared, situation: Situation) -> Shadow:
    state = CLI.config.state
    store, clock = BleStore(state), DeviceClock(state)
    clock.ahead_s = float(policy.load(state)[0].clock_ahead_s)
    old = store.open_number(situation.in_force) if situation.in_force else None
    with store.open(prepared.record) as new:
        return try_out(old, new, situation, now_s=clock.list_s())


def _situation() -> Situation:
    """Ask the agent what is in use; without one, look at what runs now."""
    try:
        found = client.call(CLI.config.control_socket, "situation")
        return msgspec.convert(found, Situation)
    except AgentUnreachable:
        ERR.print("No agent runs: only what runs now is asked about, programs by their path.", style="dim")
        return _without_agent()


def _without_agent() -> Situation:
    from mamplus_host.generations.usage import Usage  # the native extension: other commands do without

    config = CLI.config
    chosen, _fault = policy.load(config.state)
    try:
        usage = Usage(cgroup_dir(config), None)
        uses = tuple(usage.in_use())
    except ConfigInvalid:  # no such cgroup: nothing runs in it
        usage, uses = Usage(config.state, None), ()
    in_force = standing.read(config.state)[0].number
    lifelines = tuple(usage.lifelines(load_enterprise(config.state), chosen))
    return Situation(uses=uses, lifelines=lifelines, limit=chosen.shadow_limit, in_force=in_force)


def _plain(prepared: Prepared, said: Shadow, *, is_held: bool) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(said)
    return {
        "generation": prepared.record.number, "entries": prepared.record.entries, "new": prepared.new,
        "bytes": prepared.bytes, "would_be_held": is_held, "would_block": plain,
    }  # fmt: skip
