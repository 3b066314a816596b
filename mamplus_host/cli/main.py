# SPDX-License-Identifier: Apache-2.0
"""Entry point of `mamplus`: finds --config anywhere on the line, then hands over to typer."""

import os
import sys
from pathlib import Path

from mamplus_host.config import DEFAULT_CONFIG


def split_config(arguments: list[str]) -> tuple[Path, list[str]]:
    """Return the configuration's path and the other arguments; --config may stand anywhere before `--`."""
    path, rest, index = DEFAULT_CONFIG, [], 0
    while index < len(arguments):
        word = arguments[index]
        if word == "--":
            rest += arguments[index:]
            break
        if word == "--config" and index + 1 < len(arguments):
            path, index = Path(arguments[index + 1]), index + 1
        elif word.startswith("--config="):
            path = Path(word.removeprefix("--config="))
        else:
            rest.append(word)
        index += 1
    return path, rest


def main() -> None:
    """Run the command line; never returns."""
    path, arguments = split_config(sys.argv[1:])
    if arguments[:1] == ["run"] and not {"--help", "-h"} & set(arguments):
        _become_the_agent(path, arguments[1:])
    from mamplus_host.cli.app import run_app  # typer and rich: 20 MB that the agent must not carry

    sys.exit(run_app(path, arguments))


def _become_the_agent(path: Path, arguments: list[str]) -> None:
    if arguments:
        print(f"mamplus run: unexpected {arguments[0]!r}; want: mamplus run --config FILE", file=sys.stderr)
        sys.exit(2)
    os.execv(sys.executable, [sys.executable, "-m", "mamplus_host.service", "--config", str(path)])
