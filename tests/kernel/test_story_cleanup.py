# SPDX-License-Identifier: Apache-2.0
"""The story leaves nothing behind, also when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mamplus_host.config import CGROUP2_MOUNTS
from story.stage import wait_for

pytestmark = pytest.mark.kernel


def traces(root: str) -> set[str]:
    """Everything on this machine that the story in folder `root` has made; `root` ends with its tag."""
    tag = root.rpartition("-")[2]
    found = {str(path) for mount in CGROUP2_MOUNTS for path in Path(mount).glob(f"mamplus-story-{tag}*")}
    found |= {str(path) for path in Path("/run/netns").glob(f"mpstory-{tag}*")}
    found |= {str(path) for path in Path("/sys/fs/bpf").glob(f"mamplus-story-{tag}*")}
    found |= {root} if Path(root).exists() else set()
    found |= {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if root in line}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if tag in command:
            found.add(f"{process.name}: {command}")
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_story_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    story = subprocess.Popen(
        [sys.executable, "-m", "story", "--once", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert story.stdout is not None
    assert json.loads(story.stdout.readline())["happened"]  # devices are enrolled, agents run
    (root,) = map(str, tmp_path.glob("mamplus-story-*"))
    assert len(traces(root)) > 5

    os.kill(story.pid, number)

    assert story.wait(60) == 130
    wait_for("all of it to be gone", lambda: not traces(root), timeout_s=60)
