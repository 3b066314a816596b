# SPDX-License-Identifier: Apache-2.0
"""`mamplus check`: works with and without a running agent."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mamplus_host.analyzer.accounts import spellings
from mamplus_host.analyzer.verify import Answer, verify, verify_text
from mamplus_host.ble.entry import EXAMPLES, KIND_NAMES, Entry, Kind, canonical, parse_kind
from mamplus_host.ble.stack import Stack
from mamplus_host.cli import standing
from mamplus_host.cli.state import CLI, print_json, printable
from mamplus_host.clock import DeviceClock
from mamplus_host.jsonlines import to_builtins
from mamplus_host.verdicts import Verdict

_WOULD = {"block": "block it", "nothing": "not block it", "suspect": "suspect it", "allow": "allow it"}


def kinds(incomplete: str) -> list[str]:
    """The kinds that begin with `incomplete`, for the shell's completion."""
    return [name for name in KIND_NAMES if name.startswith(incomplete.lower())]


def run(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join(KIND_NAMES)}.", autocompletion=kinds)],
    value: Annotated[str, typer.Argument(metavar="VALUE", help=EXAMPLES)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say whether VALUE would be blocked, by which entry, in which generation (exit 0 no, 1 yes)."""
    state, asked = CLI.config.state, parse_kind(kind)
    now_s = DeviceClock(state).list_s()
    answer = _greatest(standing.open_in_force(state), asked, value, now_s)
    is_blocked, kept_out = answer.verdict is Verdict.BLOCK, _kept_out(state, asked, value, now_s)
    if as_json:
        print_json(_plain(answer) | ({"kept_out": kept_out} if kept_out else {}))
        raise typer.Exit(int(is_blocked))
    print(_sentence(answer.verdict.name.lower(), answer.generation))
    if answer.entry:
        entry = answer.entry
        print(
            f"  entry {entry.id}: {entry.kind.name.lower()} {entry.value}"
            + (f" ({printable(entry.reason)})" if entry.reason else "")
        )
    if kept_out and kept_out["verdict"] != answer.verdict.name.lower():
        print(f"  generation {kept_out['generation']}, {kept_out['because']}, would {_WOULD[kept_out['verdict']]}")
    raise typer.Exit(int(is_blocked))


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "blocked": answer.verdict is Verdict.BLOCK,
        "verdict": answer.verdict.name.lower(),
        "generation": answer.generation,
        "entry": _named(answer.entry) if answer.entry else None,
    }


def _named(entry: Entry) -> dict[str, Any]:
    """Return all of an entry; what is a number on disk is a word, as in `ble show` and at the enterprise."""
    words = {name: getattr(entry, name).name.lower() for name in ("kind", "verdict", "severity")}
    return {**to_builtins(entry), **words}


def _kept_out(state: Path, kind: Kind, value: str, now_s: float) -> dict[str, Any] | None:
    """Return what the newest generation says, and why it is not in force; None when it is."""
    found = standing.open_kept_out(state)
    if found is None:
        return None
    return {**_plain(_greatest(found[0], kind, value, now_s)), "because": found[1]}


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
