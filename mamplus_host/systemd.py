# SPDX-License-Identifier: Apache-2.0
"""What systemd is told, where there is one that listens (sd_notify(3))."""

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Send `message`, as "READY=1"."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def watchdog() -> None:
    """Say that we live: also from within one long piece of work."""
    notify("WATCHDOG=1")
