# SPDX-License-Identifier: Apache-2.0
"""The committed outcomes, and the table that docs/attacks.md shows of them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.files import write_whole
from tests.attacks.attack import TIERS, Attack, all_attacks

HERE = Path(__file__).parent
OUTCOMES = HERE / "outcomes"
DOC = HERE.parents[1] / "docs" / "attacks.md"
BEGIN, END = "<!-- generated: make attacks -->", "<!-- end -->"


def series(release: str) -> str:
    """Return "6.1" for "6.1.0-56-amd64"."""
    return ".".join(release.split(".")[:2])


def path_of(tier: str, release: str, directory: Path = OUTCOMES) -> Path:
    return directory / f"{tier}-{series(release)}.json"


def outcomes(tier: str, release: str, directory: Path = OUTCOMES) -> dict[str, Any]:
    """Return what came of attacks on one tier and kernel: name -> the fields of a Result."""
    path = path_of(tier, release, directory)
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())["attacks"] if path.exists() else {}
    return {name: found[name] for name in all_attacks() if name in found}


def keep(tier: str, release: str, results: Mapping[str, Any], directory: Path = OUTCOMES) -> None:
    """Write what came of attacks on one tier and kernel, whole or not at all; what came of others stays."""
    both = outcomes(tier, release, directory) | dict(results)
    whole = {"tier": tier, "kernel": release, "attacks": {name: both[name] for name in all_attacks() if name in both}}
    write_whole(
        path_of(tier, release, directory), msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n", mode=0o644
    )


def kept() -> list[dict[str, Any]]:
    """Return every file of outcomes, in the order of the tiers and then of the kernels."""
    found = [msgspec.json.decode(path.read_bytes()) for path in OUTCOMES.glob("*.json")]
    return sorted(found, key=lambda one: (TIERS.index(one["tier"]), _number(one["kernel"])))


def _number(release: str) -> list[int]:
    return [int(part) for part in series(release).split(".")]


def render() -> str:
    """Return the generated part of docs/attacks.md."""
    columns, families = kept(), dict[str, list[Attack]]()
    for attack in all_attacks().values():
        families.setdefault(attack.family, []).append(attack)
    lines: list[str] = []
    for family, attacks in families.items():
        lines += ["", f"### {family[0].upper()}{family[1:]}", "", *_table(attacks, columns)]
        lines += _reasons("Walks around", attacks, lambda attack: attack.bypasses)
        lines += _reasons("To know", attacks, lambda attack: attack.limit)
    lines += ["", *_totals(columns)]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(attacks: list[Attack], columns: list[dict[str, Any]]) -> list[str]:
    heads = ["attack", "what it does", *(f"{one['tier']} {series(one['kernel'])}" for one in columns)]
    rows = [
        _row([attack.name, attack.what, *(_cell(one["attacks"].get(attack.name)) for one in columns)])
        for attack in attacks
    ]
    return [_row(heads), _row(["---"] * len(heads)), *rows]


def _reasons(title: str, attacks: list[Attack], of: Callable[[Attack], str]) -> list[str]:
    """Return one line for each text that attacks of a family have, with their names."""
    names: dict[str, list[str]] = {}
    for attack in attacks:
        names.setdefault(of(attack), []).append(attack.name)
    names.pop("", None)
    if not names:
        return []
    every = len(attacks)
    lines = [f"- {text}" + ("" if len(which) == every else f" ({', '.join(which)})") for text, which in names.items()]
    return ["", f"{title}:", "", *lines]


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "not played"
    if result["outcome"] == "missing":
        return f"– ({result['why']})"
    shown = str(result["outcome"])
    if shown == "noticed" and result["after_ms"] is not None:
        shown += f" after {result['after_ms']:.0f} ms"
    elif shown == "not covered":
        shown = f"**{shown}**"
    return shown


def _totals(columns: list[dict[str, Any]]) -> list[str]:
    names = ("refused", "killed", "noticed", "runs", "not covered", "missing")
    lines = [_row(["tier and kernel", *names]), _row(["---"] * (len(names) + 1))]
    for one in columns:
        outcomes = [result["outcome"] for result in one["attacks"].values()]
        lines.append(_row([f"{one['tier']} {one['kernel']}", *(str(outcomes.count(name)) for name in names)]))
    return lines


def whole(text: str) -> str:
    """Return the page `text` with its generated part renewed."""
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _old: f"{BEGIN}\n{render()}{END}", text, flags=re.DOTALL
    )


def write() -> None:
    DOC.write_text(whole(DOC.read_text()))
