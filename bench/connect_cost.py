# SPDX-License-Identifier: Apache-2.0
"""What a TCP connect to loopback costs: connect(2) alone. Pristine, with our probes, with bcc."""

import argparse

from bench import report
from bench.rig import pristine, rig

CONNECTS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with rig() as bench:
        conditions = {"pristine": pristine, "mamplus": bench.attached, "bcc shell": bench.observed_by_bcc}
        values = bench.alternate(
            conditions,
            lambda: bench.cost_us("connect", CONNECTS),
            rounds=arguments.rounds,
            what="connect_cost",
        )
        report.write(
            "connect_cost",
            title="connect(2) over TCP on loopback",
            unit="us",
            values=values,
            peer="pristine",
            connects_per_repetition=CONNECTS,
            last_counters=bench.counters,
        )


if __name__ == "__main__":
    main()
