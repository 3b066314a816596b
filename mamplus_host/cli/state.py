# SPDX-License-Identifier: Apache-2.0
"""What every command needs: the configuration, the agent's socket, and how results are shown."""

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from mamplus_host.config import DEFAULT_CONFIG, Config, load
from mamplus_host.control import client
from mamplus_host.errors import MamplusError

OUT = Console(highlight=False, soft_wrap=False)
ERR = Console(stderr=True, highlight=False)
GUEST_WAIT_S = 10.0  # for another command that writes the agent's state


class _Cli:
    """The one command line of this process."""

    def __init__(self) -> None:
        self.config_path: Path = DEFAULT_CONFIG
        self._guest: socket.socket | None = None  # while it is open, the agent's state is ours to write, too

    @property
    def config(self) -> Config:
        """The configuration, for a command that reads or writes the agent's state; `socket` is for others."""
        config = load(self.config_path)
        if self._guest is None:
            self._guest = _admitted(config)
        return config

    @property
    def socket(self) -> Path:
        """Where the agent listens."""
        return load(self.config_path).control_socket

    def call(self, command: str, **arguments: Any) -> Any:
        """Ask the agent; AgentUnreachable when there is none (`run_app` says how to start one)."""
        return client.call(self.socket, command, **arguments)


def _admitted(config: Config) -> socket.socket | None:
    """Have the agent let this command write its state, where the kernel guards it; without an agent the guard rests.

    There is one guest at a time, so others are waited for. The command itself says what is in the way.
    """
    if not any(config.bpffs.glob("*/file_rules")):
        return None
    end_s = time.monotonic() + GUEST_WAIT_S
    while True:
        try:
            return client.hold(config.control_socket, "admit")
        except client.Refused:
            if time.monotonic() > end_s:
                return None
        except MamplusError:
            return None
        time.sleep(0.1)


CLI = _Cli()


def print_json(value: Any) -> None:
    """Write `value` as one line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")


def printable(text: object) -> str:
    """Return untrusted text so that it can stand in a terminal: control characters shown."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def safe(text: object) -> str:
    """Return untrusted text for a console of rich, where markup is inert, too."""
    return printable(text).replace("[", r"\[")
