# SPDX-License-Identifier: Apache-2.0
"""`mamplus vault list` and `mamplus restore`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mamplus_host.cli.state import CLI, OUT, print_json, safe

app = typer.Typer(no_args_is_help=True, help="Look at the golden copies of protected files.")


@app.callback()
def group() -> None:
    """Look at the golden copies of protected files."""


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List protected files and the versions that are kept of them."""
    rows = CLI.call("vault-list")
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("path", "bytes", "taken at (UTC)", "versions", "sha256", "state"):
        table.add_column(column, overflow="fold")
    for row in rows:
        when = datetime.fromtimestamp(row["taken_at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        state = "waits for `mamplus restore`" if row["suspended"] else "protected"
        table.add_row(safe(row["path"]), str(row["size"]), when, str(row["versions"]), row["sha256"][:16], state)
    OUT.print(table)


def restore(
    path: Annotated[Path, typer.Argument(metavar="PATH")],
    at: Annotated[
        datetime | None, typer.Option("--at", metavar="TIME", help="As it was then; default: the latest.")
    ] = None,
) -> None:
    """Put a protected file back as it was kept."""
    when = at.astimezone().timestamp() if at else None
    OUT.print(safe(CLI.call("restore", path=str(path.absolute()), at=when)))
