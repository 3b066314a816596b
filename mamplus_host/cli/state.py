# SPDX-License-Identifier: Apache-2.0
"""What every command needs: the configuration, the agent's socket, and how results are shown."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from mamplus_host.config import DEFAULT_CONFIG, Config, load
from mamplus_host.control import client

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
    """Let this command write the agent's state where the kernel guards it; without such a guard nothing is imported."""
    if any(config.bpffs.glob("*/file_rules")):
        from mamplus_host.kernel import fileguards

        fileguards.admit(config, as_guest=True)


CLI = _Cli()


def print_json(value: Any) -> None:
    """Write `value` as one line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")


def safe(text: object) -> str:
    """Return untrusted text so that it can stand in a terminal: control characters shown, markup inert."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown.replace("[", r"\[")
