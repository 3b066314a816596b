# SPDX-License-Identifier: Apache-2.0
"""What a program start costs: fork, exec of a static program, wait. Pristine, with our probes, with bcc."""

import argparse

from bench import report
from bench.rig import pristine, rig

STARTS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with rig() as bench:
        conditions = {"pristine": pristine, "mamplus": bench.attached, "bcc shell": bench.observed_by_bcc}
        values = bench.alternate(
            conditions,
            lambda: bench.cost_us("exec", STARTS, bench.program),
            rounds=arguments.rounds,
            what="exec_cost",
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
