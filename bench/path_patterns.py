# SPDX-License-Identifier: Apache-2.0
"""What it costs to ask thousands of path patterns about a program: our tree, and one regular expression of them all."""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench import report
from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.globs import Globs
from mamplus_host.verdicts import Verdict

Made = TypeVar("Made")
SEEN = [f"/home/eve/.cache/app-{n}/run" for n in range(50)] + [f"/usr/lib/app/plugin-{n}" for n in range(50)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patterns", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    wanted = patterns(arguments.patterns)
    generation = listed(wanted)
    tree, tree_s = timed(lambda: Globs([generation]))
    regex, regex_s = timed(lambda: re.compile("|".join(map(as_regex, wanted))))
    values: dict[str, list[float]] = {"tree": [], "one regular expression": []}
    for _ in report.progress(range(arguments.rounds), "path_patterns", arguments.rounds):
        values["tree"].append(cost_us(lambda seen: tree.covering(seen.encode())))
        values["one regular expression"].append(cost_us(regex.fullmatch))
    report.write(
        "path_patterns", title=f"a path that none of {len(wanted):,} patterns covers", unit="us", values=values,
        peer="one regular expression", compiled_s={"tree": round(tree_s, 3), "regex": round(regex_s, 3)},
        tree_mb=round(tree.size_bytes / 1e6, 1),
    )  # fmt: skip


def patterns(count: int) -> list[str]:
    """Half that begin alike, half that may lie anywhere."""
    return [f"/home/*/.cache/evil-{n}*" if n % 2 else f"/**/evil-{n}-??.so" for n in range(count)]


def listed(wanted: Sequence[str]) -> Generation:
    entries = [Entry(id=n, kind=Kind.PATH, value=text, verdict=Verdict.BLOCK) for n, text in enumerate(wanted, 1)]
    return Generation(encode(entries, generation=1, created_s=0))


def as_regex(pattern: str) -> str:
    text = re.escape(pattern).replace(r"/\*\*/", "/(?:.*/)?")
    return text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def timed(make: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began


def cost_us(ask: Callable[[str], object]) -> float:
    """Return the mean cost of one question in microseconds."""
    began = time.perf_counter()
    for seen in SEEN:
        ask(seen)
    return (time.perf_counter() - began) / len(SEEN) * 1e6


if __name__ == "__main__":
    main()
