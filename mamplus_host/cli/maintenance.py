# SPDX-License-Identifier: Apache-2.0
"""`mamplus maintenance`: enter a code of the enterprise; until it ends, root may stop and detach the agent."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mamplus_host.cli.state import CLI, OUT
from mamplus_host.clock import DeviceClock
from mamplus_host.errors import AgentUnreachable
from mamplus_host.executor.journal import Journal
from mamplus_host.generations.age import in_words
from mamplus_host.maintenance.keeper import Keeper
from mamplus_host.outbox.store import Outbox
from mamplus_host.statelock import StateLock

Words = Annotated[
    list[str], typer.Argument(metavar="CODE|status|end", help="The code, in groups or not; -: from stdin.")
]


def run(words: Words) -> None:
    """Open a maintenance window with a CODE of the enterprise, look at it (status), or close it (end)."""
    said = " ".join(words)
    if said == "status":
        done = _ask("maintenance-status")
    elif said == "end":
        done = _ask("maintenance-end")
    else:
        done = _ask("maintenance-begin", code=sys.stdin.read(4096) if said == "-" else said)
    if not done["open_for_s"]:
        OUT.print("no maintenance window is open")
    else:
        OUT.print(f"a maintenance window is open for {in_words(done['open_for_s'])} (code {done['code']})")


def _ask(command: str, **arguments: str) -> Any:
    """Ask the agent; while there is none, do it here."""
    try:
        return CLI.call(command, **arguments)
    except AgentUnreachable:
        with _alone() as keeper:
            if command == "maintenance-begin":
                return keeper.begin(arguments["code"])
            return keeper.end() if command == "maintenance-end" else keeper.status()


@contextmanager
def _alone() -> Iterator[Keeper]:
    config = CLI.config
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = StateLock(config.state)
    clock = DeviceClock(config.state)
    journal = Journal(config.state / "journal", max_bytes=config.limits.journal_bytes, clock=clock)
    outbox = Outbox(config.state / "outbox.sqlite", max_bytes=config.limits.outbox_bytes)
    try:
        yield Keeper(
            config.state, clock, open_guard=lambda _until_ns: None,  # `detach` takes the place of the agent
            journal=lambda facts: journal.append("note", "", facts), tell=outbox.put,
        )  # fmt: skip
    finally:
        outbox.close()
        journal.close()
        lock.release()
