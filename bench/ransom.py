# SPDX-License-Identifier: Apache-2.0
"""How many protected files are damaged before a program that encrypts them stands still, and until all are back.

An agent of its own protects 2,000 files on an ext4 (or tmpfs) of its own; real tools go through them in a cgroup of
their own. A file counts as damaged when it had to be put back: it has another inode then.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from bench import report
from bench.rig import clean_up_when_ended, own_disk
from tests.kernel import acts, ransom


def once(rig: ransom.Rig, tool: str) -> tuple[int, float]:
    """Return how many files were damaged, and the seconds from the start of the tool until all were back."""
    before, alerts = rig.inodes(), len(rig.mass_alerts())
    begin_s = time.monotonic()
    with rig.attacked_by(tool):
        rig.wait("the writer to stand still", rig.holds_somebody)
        rig.wait("the alert", lambda: len(rig.mass_alerts()) > alerts)
        rig.wait("all files to be back", lambda: not rig.damaged())
        took_s = time.monotonic() - begin_s
        after = rig.inodes()
    return sum(after[name] != inode for name, inode in before.items()), took_s


def measured(place: Path, state: Path, tools: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    with ransom.rig(place, state, count=arguments.files) as rig:
        for tool in tools:
            runs = [once(rig, tool) for _number in report.progress(range(arguments.rounds), tool, arguments.rounds)]
            damaged = [float(count) for count, _took_s in runs]
            figures[tool] = {
                "damaged p50": statistics.median(damaged), "damaged most": max(damaged),
                "lost": float(len(rig.damaged())), "back after s": statistics.median(took for _count, took in runs),
            }  # fmt: skip
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=ransom.FILES)
    parser.add_argument("--tmpfs", action="store_true", help="in memory; default: an ext4 in an image")
    parser.add_argument("--tool", action="append", choices=[*ransom.TOOLS, *ransom.AT_ONCE])
    arguments = parser.parse_args()
    clean_up_when_ended()
    tools = arguments.tool or [*ransom.TOOLS, *ransom.AT_ONCE]
    with tempfile.TemporaryDirectory(prefix="mamplus-bench-") as directory:
        own: AbstractContextManager[Path] = acts.own_tmpfs() if arguments.tmpfs else own_disk(Path(directory))
        with own as place:
            figures = measured(place, Path(directory), tools, arguments)
    report.table("ransom", f"files damaged before the writer stands still, of {arguments.files}", figures)


if __name__ == "__main__":
    main()
