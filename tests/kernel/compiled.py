# SPDX-License-Identifier: Apache-2.0
"""The small C programs that each do one thing: compiled here, or by the machine that this virtual one runs on."""

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
GCC = ("gcc", "-O2", "-Wall", "-Wextra", "-Werror")
BUILD: dict[str, list[str]] = {
    "as_pid": [],
    "enter": [],
    "opener": [],
    "mark": ["-static", "-nostdlib", "-fno-stack-protector"],
    "talk": [],
    "burst": [],
    "crowd": [],
    "hammer": [],
    "lookups": [],
    "traced": [],
    "waker": [],
    "tracer": [],
    "seizer": [],
    "wants": ["-pthread"],
    "filetry": [],
}
VARIABLE = "MAMPLUS_TEST_PROGRAMS"  # names a directory where they lie: compiling takes an emulated machine minutes


def put(out: Path) -> Path:
    """Put all of them into `out`, and return it."""
    made = os.environ.get(VARIABLE)
    if made:
        shutil.copytree(made, out, dirs_exist_ok=True)
    else:
        build(out)
    return out


def build(out: Path) -> None:
    for name, flags in BUILD.items():
        command: list[str | Path] = [*GCC, *flags, "-o", out / name, PROGRAMS / f"{name}.c"]
        subprocess.run(command, check=True)
