# SPDX-License-Identifier: Apache-2.0
"""Who opens a guarded path does not wait without end either: the responder stopped, and no agent to wake it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from mamplus_host.control import client
from story.stage import wait_for

from .test_guarding import CONTENT, TICKS_S, Running, running  # noqa: F401 - the fixture

pytestmark = pytest.mark.kernel
LIMIT_S = 30.0  # for what takes a second at most: without an answer it would be for ever


def test_a_guarded_file_can_be_opened_although_the_responder_stands(
    running: Running,  # noqa: F811
    tmp_path: Path,
) -> None:
    guarded = tmp_path / "shop.conf"
    guarded.write_bytes(CONTENT)
    running.policy(guarded=[{"path": str(guarded)}])
    running.start()
    wait_for("the rules", lambda: str(running.guarded()["tier"]).startswith(("lsm", "fanotify")), timeout_s=TICKS_S)
    responder = client.call(running.config.control_socket, "status")["responder"]["pid"]
    running._process.kill()  # it would wake its responder
    running._process.wait()

    os.kill(responder, signal.SIGSTOP)
    try:
        for _ in range(3):
            done = subprocess.run(["/bin/cat", guarded], capture_output=True, timeout=LIMIT_S, check=True)
            assert done.stdout == CONTENT
    finally:
        os.kill(responder, signal.SIGCONT)
