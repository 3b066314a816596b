# SPDX-License-Identifier: Apache-2.0
"""`make fuzz RUNS=N`: mutated lists and mutated bundles, N in total, with one line that tells how far it is.

    python -m tests.fuzz.run N [--seed S]

Nineteen in twenty are lists (C, under the sanitizers), the others bundles (Python, some 200 a second). Exits with 1
when anything crashed, was not so, or was accepted though nobody published it; the input that did it is then in
build/fuzz/, and belongs into tests/fuzz/corpus/ once it is mended.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from tests.fuzz import seeds

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"
BUNDLES_IN = 20  # one in so many
_STEP = re.compile(r"^#(\d+)\s")


def build() -> None:
    """Compile the fuzzer of lists where a source is newer than it."""
    program = WORK / "list_fuzz"
    sources = [*(ROOT / "kernel_probes").glob("*/*.[ch]"), *Path(__file__).parent.glob("*.[ch]")]
    if not program.exists() or any(source.stat().st_mtime > program.stat().st_mtime for source in sources):
        subprocess.run([ROOT / "tests/fuzz/build-list-fuzz"], check=True)


def fuzz_lists(runs: int, seed: int, *, quiet: bool = False) -> bool:
    """Run the fuzzer of lists; False when it found something."""
    build()
    seeds.main(WORK / "seeds")
    (WORK / "found").mkdir(exist_ok=True)
    command: list[str | Path] = [
        WORK / "list_fuzz",
        "-max_len=20000",
        "-rss_limit_mb=2000",
        WORK / "found",
        WORK / "seeds",
    ]
    return _watched("lists", [*command, ROOT / "tests/fuzz/corpus"], runs, seed, quiet=quiet)


def fuzz_bundles(runs: int, seed: int, *, quiet: bool = False) -> bool:
    """Run the fuzzer of bundles; False when it found something."""
    folder = WORK / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.bundle_fuzz", "-max_len=120", "-len_control=0", "-rss_limit_mb=2000"]
    return _watched("bundles", [*command, folder], runs, seed, quiet=quiet)


def replay_lists() -> str:
    """Give the fuzzer of lists what it once fell over; return what it says, "" when nothing is wrong."""
    build()
    inputs = sorted((ROOT / "tests/fuzz/corpus").glob("list-*"))
    done = subprocess.run([WORK / "list_fuzz", *inputs], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr


def _watched(name: str, command: list[str | Path], runs: int, seed: int, *, quiet: bool) -> bool:
    options = [f"-runs={runs}", f"-seed={seed}", "-print_final_stats=1", f"-artifact_prefix={WORK}/"]
    began, last = time.monotonic(), deque[str](maxlen=60)
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as one:
        assert one.stderr is not None
        for line in one.stderr:
            last.append(line)
            if (step := _STEP.match(line)) and not quiet:
                _progress(name, int(step[1]), runs, began)
    if not quiet:
        _progress(name, runs if one.returncode == 0 else 0, runs, began, end="\n")
    if one.returncode:
        sys.stderr.writelines(last)
    return one.returncode == 0


def _progress(name: str, done: int, runs: int, began: float, *, end: str = "") -> None:
    took_s = max(time.monotonic() - began, 0.001)
    print(f"\r{name}: {done:,} of {runs:,}, {done / took_s:,.0f}/s, {took_s:.0f} s ", end=end, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("runs", type=int)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    bundles = given.runs // BUNDLES_IN
    lists_hold = fuzz_lists(given.runs - bundles, given.seed)
    bundles_hold = fuzz_bundles(bundles, given.seed)
    held = lists_hold and bundles_hold
    print(
        f"{given.runs:,} mutants: "
        + ("none accepted that nobody published, no crash" if held else "see above; the input is in build/fuzz/")
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
