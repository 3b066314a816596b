# SPDX-License-Identifier: Apache-2.0
"""`mamplus check`: works with and without a running agent."""

from typing import Annotated

import typer

from mamplus_host.analyzer.accounts import spellings
from mamplus_host.analyzer.verify import Answer, verify, verify_text
from mamplus_host.ble.entry import EXAMPLES, KIND_NAMES, Kind, canonical, parse_kind
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.cli.state import CLI, print_json
from mamplus_host.clock import DeviceClock
from mamplus_host.jsonlines import to_builtins
from mamplus_host.verdicts import Verdict


def kinds(incomplete: str) -> list[str]:
    """The kinds that begin with `incomplete`, for the shell's completion."""
    return [name for name in KIND_NAMES if name.startswith(incomplete.lower())]


def run(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join(KIND_NAMES)}.", autocompletion=kinds)],
    value: Annotated[str, typer.Argument(metavar="VALUE", help=EXAMPLES)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say whether VALUE would be blocked, by which entry, in which generation (exit 0 no, 1 yes)."""
    ble = BleStore(CLI.config.state).current()
    answer = _greatest(ble, parse_kind(kind), value, DeviceClock(CLI.config.state).list_s())
    is_blocked = answer.verdict is Verdict.BLOCK
    if as_json:
        entry = to_builtins(answer.entry) if answer.entry else None
        print_json(
            {
                "blocked": is_blocked,
                "verdict": answer.verdict.name.lower(),
                "generation": answer.generation,
                "entry": entry,
            }
        )
        raise typer.Exit(int(is_blocked))
    print(_sentence(answer.verdict.name.lower(), answer.generation))
    if answer.entry:
        entry = answer.entry
        print(
            f"  entry {entry.id}: {entry.kind.name.lower()} {entry.value}"
            + (f" ({entry.reason})" if entry.reason else "")
        )
    raise typer.Exit(int(is_blocked))


def _greatest(ble: Stack | None, kind: Kind, value: str, now_s: float) -> Answer:
    """The list's answer; of a user or group under each of its names on this machine."""
    answer = verify_text(ble, kind, value, now_s=now_s)
    if kind not in (Kind.USER, Kind.GROUP):
        return answer
    others = [verify(ble, kind, name, now_s=now_s) for name in spellings(kind, canonical(kind, value))]
    return max([answer, *others], key=lambda one: one.verdict)


def _sentence(verdict: str, generation: int) -> str:
    if generation == 0:
        return "not blocked: no generation is installed; enroll, or load one with `mamplus ble load`"
    words = {"block": "blocked", "nothing": "not blocked", "suspect": "suspected", "allow": "allowed"}
    return f"{words[verdict]} in generation {generation}"
