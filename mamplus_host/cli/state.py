# SPDX-License-Identifier: Apache-2.0
"""What every command needs: the configuration, the agent's socket, and how results are shown."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from mamplus_host.config import DEFAULT_CONFIG, Config, load
from mamplus_host.control import client
from mamplus_host.errors import MamplusError

OUT = Console(highlight=False, soft_wrap=False)
ERR = Console(stderr=True, highlight=False)


class _Cli:
    """The one command line of this process."""

    def __init__(self) -> None:
        self.config_path: Path = DEFAULT_CONFIG
        self._is_admitted = False

    @property
    def config(self) -> Config:
        config = load(self.config_path)
        if not self._is_admitted:
            self._is_admitted = True
            _admit(config)
        return config

    def call(self, command: str, **arguments: Any) -> Any:
        """Ask the agent; AgentUnreachable when there is none (`run_app` says how to start one)."""
        return client.call(self.config.control_socket, command, **arguments)


def _admit(config: Config) -> None:
    """Have the agent let this command write its state, where the kernel guards it; without an agent the guard rests."""
    if any(config.bpffs.glob("*/file_rules")):
        with contextlib.suppress(MamplusError):  # the command itself says what is in the way
            client.call(config.control_socket, "admit", pid=os.getpid())


CLI = _Cli()


def print_json(value: Any) -> None:
    """Write `value` as one line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")


def safe(text: object) -> str:
    """Return untrusted text so that it can stand in a terminal: control characters shown, markup inert."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown.replace("[", r"\[")
