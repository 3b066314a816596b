# SPDX-License-Identifier: Apache-2.0
"""What the responder does when the kernel's programs cannot be run: it lets go on, and counts."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
HARNESS = Path(__file__).with_name("unasked.c")


def test_what_the_kernel_could_not_be_asked_about_goes_on_and_is_counted(tmp_path: Path) -> None:
    program = tmp_path / "unasked"
    include = [f"-I{ROOT / 'kernel_probes' / part}" for part in ("include", "native")]
    subprocess.run(["gcc", "-D_GNU_SOURCE", *include, "-o", program, HARNESS], check=True)

    done = subprocess.run([program], capture_output=True, text=True, check=True)

    assert done.stdout == "start 1 refused 0 open 2\n"
