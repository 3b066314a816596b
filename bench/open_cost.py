# SPDX-License-Identifier: Apache-2.0
"""What opening a file costs that nothing guards and nothing lists: open(2) for reading and close(2).

`mamplus` is what this kernel allows by default: BPF LSM hooks where it grants them, else nothing looks at an open.
With the fanotify tier a known file of root's has an ignore mark; one that others may write has none, and is asked
about at every open.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import report
from bench.rig import Condition, Rig, own_disk, pristine, rig

OPENS = 20_000
SETTLED_S = 0.1  # a file that changed just now is hashed at every open


def conditions(bench: Rig, place: Path, file: Path) -> dict[str, Condition]:
    @contextmanager
    def unmarked() -> Iterator[None]:
        file.chmod(0o666)
        time.sleep(SETTLED_S)
        try:
            with bench.attached("--fanotify", place):
                yield
        finally:
            file.chmod(0o644)

    return {
        "pristine": pristine,
        "mamplus": bench.attached,
        "mamplus, fanotify, ignore mark": lambda: bench.attached("--fanotify", place),
        "mamplus, fanotify, no mark": unmarked,
        "fanotify daemon in C": lambda: bench.permitted_by("c", place, "open"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--opens", type=int, default=OPENS)
    arguments = parser.parse_args()
    with rig() as bench, own_disk(bench.directory) as place:
        file = place / "file"
        file.write_bytes(b"what is read\n")
        file.chmod(0o644)
        time.sleep(SETTLED_S)
        values = bench.alternate(
            conditions(bench, place, file),
            lambda: bench.cost_us("open", arguments.opens, file),
            rounds=arguments.rounds,
            what="open_cost",
        )
        report.write(
            "open_cost",
            title="open(2) and close(2) of a file",
            unit="us",
            values=values,
            peer="pristine",
            opens_per_repetition=arguments.opens,
        )


if __name__ == "__main__":
    main()
