# SPDX-License-Identifier: Apache-2.0
"""What a start of a known program costs: fork, exec of a static program, wait; with our tiers, and with the peers.

The program lies on a file system of its own, so that a fanotify daemon is asked about its starts and no others.
"""

import argparse
import shutil
from pathlib import Path

from bench import report
from bench.rig import Condition, Rig, own_disk, pristine, rig
from bench.tables_lists import write_hashes

STARTS = 500
ENTRIES = 10_000_000


def conditions(bench: Rig, place: Path, entries: int) -> dict[str, Condition]:
    """Return what is compared; `entries` SHA-256 are on the list of one of them."""
    long_list = bench.directory / "list"
    write_hashes(long_list, entries)
    return {
        "pristine": pristine,
        "mamplus": bench.attached,
        f"mamplus, {entries:,} entries": lambda: bench.attached("--list", long_list),
        "mamplus, fanotify tier": lambda: bench.attached("--fanotify", place),
        "bcc shell": bench.observed_by_bcc,
        "fanotify daemon in C": lambda: bench.permitted_by("c", place),
        "fanotify daemon in Python": lambda: bench.permitted_by("python", place),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--only", nargs="*", help="conditions beside pristine, by their first words")
    arguments = parser.parse_args()
    with rig() as bench, own_disk(bench.directory) as place:
        program = shutil.copy(bench.program, place)
        chosen = conditions(bench, place, arguments.entries)
        if arguments.only is not None:
            chosen = {name: one for name, one in chosen.items() if name.startswith(("pristine", *arguments.only))}
        values = bench.alternate(
            chosen, lambda: bench.cost_us("exec", STARTS, program), rounds=arguments.rounds, what="exec_cost"
        )
        report.write(
            "exec_cost",
            title="fork + exec + wait of a static program",
            unit="us",
            values=values,
            peer="pristine",
            starts_per_repetition=STARTS,
            last_counters=bench.counters,
        )


if __name__ == "__main__":
    main()
