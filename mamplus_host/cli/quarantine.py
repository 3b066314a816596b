# SPDX-License-Identifier: Apache-2.0
"""`mamplus quarantine`: files that were taken out of reach; looked at, brought back, carried to the enterprise."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mamplus_host.cli import acts
from mamplus_host.cli.alerts import when
from mamplus_host.cli.sealing import write_sealed
from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.cli.table import print_table
from mamplus_host.clock import SystemClock
from mamplus_host.executor.actions.quarantine import Quarantine
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.storage.boxes import Boxes

app = typer.Typer(no_args_is_help=True, help="Look at files in quarantine, bring them back, or carry them on.")
Id = Annotated[str, typer.Argument(metavar="ID", help="As `mamplus quarantine list` shows it.")]


@app.callback()
def group() -> None:
    """Look at files in quarantine, bring them back, or carry them on."""


@app.command("add")
def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file.")],
    for_: acts.For = "",
    as_json: acts.Json = False,
) -> None:
    """Take a file out of reach: it leaves all of its names, and is kept encrypted."""
    acts.act("quarantine", {"path": os.path.abspath(path)}, for_=for_, as_json=as_json)


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List what is in quarantine, oldest first; with and without a running agent."""
    pages = _boxes().pages()
    if as_json:
        for page in pages:
            print_json({name: page[name] for name in ("id", "path", "names", "sha256", "size", "at")})
        return
    if not pages:
        OUT.print("Nothing is in quarantine.")
        return
    rows = [(page["id"], when(page["at"]), page["size"], page["sha256"][:16], page["path"]) for page in pages]
    print_table(("id", "since (UTC)", "bytes", "sha256", "path"), rows, expendable=("sha256", "bytes"), prose="path")


@app.command("restore")
def restore(
    file_id: Id,
    to: Annotated[Path | None, typer.Option("--to", metavar="PATH", help="A copy there; it stays here, too.")] = None,
) -> None:
    """Bring a file back where it was, bit for bit, or put a copy at --to PATH."""
    if to is not None:
        OUT.print(safe(_deed().put_at(file_id, os.path.abspath(to))))
        return
    for outcome in CLI.call("undo", id=file_id):
        OUT.print(f"{safe(outcome['action'])}: {outcome['state']} {safe(outcome['detail'])}")


@app.command("export")
def export(file_id: Id, out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file.")]) -> None:
    """Write a file to OUT for the enterprise's eyes only: `mamplus-enterprise unseal OUT FILE`."""
    deed, boxes = _deed(), _boxes()
    page = deed.page(file_id)
    content = os.memfd_create("content", os.MFD_CLOEXEC)
    try:
        boxes.unpack(page["id"], content, page["size"])
        write_sealed(out, os.pread(content, page["size"], 0))
    finally:
        os.close(content)
    OUT.print(f"exported {page['size']} bytes to {safe(out)}, readable for the enterprise alone")


def _boxes() -> Boxes:
    return Boxes(CLI.config.state / "quarantine", max_bytes=CLI.config.limits.quarantine_bytes)


def _deed() -> Quarantine:
    return Quarantine(_boxes(), GuardSet(), clock=SystemClock())
