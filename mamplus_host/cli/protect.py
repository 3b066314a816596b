# SPDX-License-Identifier: Apache-2.0
"""`mamplus protect` and `mamplus unprotect`."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_host.cli.state import CLI, OUT, safe


def run(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a directory with all that is in it.")],
) -> None:
    """Keep a golden copy of PATH; whatever touches it is reported and undone."""
    for kept in CLI.call("protect", path=str(path.absolute())):
        OUT.print(f"protected {safe(kept)}")


def unprotect(path: Annotated[Path, typer.Argument(metavar="PATH")]) -> None:
    """Let PATH change again: it is no longer watched, and `restore` no longer knows it."""
    for kept in CLI.call("unprotect", path=str(path.absolute())):
        OUT.print(f"no longer protected {safe(kept)}")
