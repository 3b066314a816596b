# SPDX-License-Identifier: Apache-2.0
"""`mamplus evidence`: sealed snapshots; looked for, and carried to the enterprise."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from mamplus_host.cli import acts
from mamplus_host.cli.alerts import when
from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.cli.table import print_table
from mamplus_host.errors import NotPossible
from mamplus_host.files import replacing

app = typer.Typer(no_args_is_help=True, help="Look for sealed snapshots, and carry them to the enterprise.")


@app.callback()
def group() -> None:
    """Look for sealed snapshots, and carry them to the enterprise."""


@app.command("take")
def take(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="Files, at most 8.")] = None,
    pid: Annotated[int, typer.Option("--pid", metavar="PID", help="A process, with all below it.")] = 0,
    as_json: acts.Json = False,
) -> None:
    """Take a snapshot of a process, of files, or both, sealed for the enterprise."""
    acts.act("evidence", {"tgid": pid, "paths": [os.path.abspath(path) for path in paths or []]}, as_json=as_json)


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the snapshots on this device, oldest first; nobody reads them here."""
    found = [(path.stem, path.stat()) for path in _kept()]
    if as_json:
        for name, stat in found:
            print_json({"id": name, "at": stat.st_mtime, "bytes": stat.st_size})
        return
    if not found:
        OUT.print("There is no snapshot.")
        return
    rows = [(name, when(stat.st_mtime), stat.st_size) for name, stat in found]
    print_table(("id", "taken (UTC)", "bytes"), rows, expendable=("bytes",), prose="id")


@app.command("export")
def export(
    snapshot_id: Annotated[str, typer.Argument(metavar="ID", help="As `mamplus evidence list` shows it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file.")],
) -> None:
    """Copy a snapshot to OUT as it is, sealed: `mamplus-enterprise unseal OUT FILE`."""
    if out.exists():
        raise NotPossible(f"{str(out)!r} is there already; name another file")
    path = next((one for one in _kept() if one.stem == snapshot_id), None)
    if path is None:
        raise NotPossible(f"there is no snapshot {snapshot_id!r}; `mamplus evidence list` shows what there is")
    with path.open("rb") as source, replacing(out, mode=0o644) as target:
        shutil.copyfileobj(source, target)
    OUT.print(f"exported to {safe(out)}, readable for the enterprise alone")


def _kept() -> list[Path]:
    return sorted((CLI.config.state / "evidence").glob("*.sealed"))
