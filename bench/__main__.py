# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark, one after the other: `make bench`."""

import subprocess
import sys

BENCHMARKS = ("exec_cost", "connect_cost", "drain", "idle", "tables", "delta", "import_speed", "path_patterns")


def main() -> int:
    failed = 0
    for number, name in enumerate(BENCHMARKS, 1):
        print(f"[{number}/{len(BENCHMARKS)}] {name}", flush=True)
        # A process each, so that none measures what another has left in memory.
        failed |= subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
