# SPDX-License-Identifier: Apache-2.0
"""What systemd is told, where there is one that listens (sd_notify(3))."""

import contextlib
import os
import socket
import threading
import time

START_MORE_S = 90  # what a start may take from each sign of life on: it finishes what a crash interrupted
_BEAT_S = 1.0  # who lives says so no oftener
_said_s = [float("-inf")]  # monotonic: when it was said last


def notify(message: str) -> None:
    """Send `message`, as "READY=1"."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def watchdog() -> None:
    """Say that we live: also from within one long piece of work, and while we still start.

    What another thread does is no sign of life of the loop's.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    now_s = time.monotonic()
    if now_s - _said_s[0] < _BEAT_S:
        return
    _said_s[0] = now_s
    notify(f"WATCHDOG=1\nEXTEND_TIMEOUT_USEC={START_MORE_S * 1_000_000}")
