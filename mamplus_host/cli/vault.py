# SPDX-License-Identifier: Apache-2.0
"""`mamplus vault list|restore|window` and `mamplus restore`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from mamplus_host.cli.state import CLI, ERR, OUT, print_json, safe
from mamplus_host.errors import ConfigInvalid, VaultError
from mamplus_host.executor.vault.window import BY_MANAGER, BY_PERSON
from mamplus_host.generations.age import in_words

app = typer.Typer(no_args_is_help=True, help="Look at the golden copies of protected files, and put them back.")
window = typer.Typer(no_args_is_help=True, help="Have changes to protected files kept for a while, not undone.")
app.add_typer(window, name="window")

_AT_ONCE = 64  # steps of one request: the agent does other work in between
_DEFAULT_WINDOW = "15m"
_UNITS = {"s": 1 / 60, "m": 1, "h": 60, "d": 24 * 60}  # minutes

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
At = Annotated[datetime | None, typer.Option("--at", metavar="TIME", help="As it was then; default: the latest.")]


@app.callback()
def group() -> None:
    """Look at the golden copies of protected files, and put them back."""


@app.command("list")
def show(
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="Only this, and what is below it.")] = None,
    versions: Annotated[bool, typer.Option("--versions", help="Every version that is kept of PATH, a file.")] = False,
    as_json: Json = False,
) -> None:
    """List protected files and the versions that are kept of them."""
    if versions and path is None:
        raise ConfigInvalid("--versions of which file? want: mamplus vault list --versions PATH")
    if versions:
        rows = CLI.call("vault-versions", path=str(path.absolute() if path else ""))
        _print(rows, as_json, {"id": "id", "kind": "kind", "taken at (UTC)": "taken_at", "sha256": "sha256"})
    else:
        rows = CLI.call("vault-list", path=str(path.absolute()) if path else "")
        columns = {"path": "path", "bytes": "size", "taken at (UTC)": "taken_at", "versions": "versions"}
        _print(rows, as_json, {**columns, "sha256": "sha256", "state": "suspended"})


@app.command("restore")
def restore_all(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a directory with all that is in it.")],
    at: At = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Put a file or a whole tree back as it was kept; what was not there then is taken away, and kept as a version."""
    plan = CLI.call("vault-plan", path=str(path.absolute()), at=_epoch(at))
    todo = [step for step in plan if step["what"] != "as it is"]
    if dry_run:
        _print(
            todo, as_json, {"what": "what", "path": "path", "type": "type", "bytes": "size", "as of (UTC)": "taken_at"}
        )
        ERR.print(f"{len(todo)} of {len(plan)} would change; nothing was done")
        return
    failed = _carry_out(todo or plan[:1])
    if as_json:
        print_json({"done": len(todo) - len(failed), "as_it_was": len(plan) - len(todo), "failed": failed})
    for why in failed:
        ERR.print(safe(why))
    if failed:
        raise VaultError(f"{len(failed)} of {len(todo)} could not be put back; the others are")
    if not as_json:
        OUT.print(f"{len(todo)} put back, {len(plan) - len(todo)} were as they should be")


def restore(path: Annotated[Path, typer.Argument(metavar="PATH")], at: At = None) -> None:
    """Put a protected file or tree back as it was kept: `mamplus vault restore`."""
    restore_all(path, at)


@window.command("open")
def open_window(
    lasting: Annotated[
        str, typer.Option("--for", metavar="TIME", help="30s, 15m, 2h; at most a day.")
    ] = _DEFAULT_WINDOW,
    for_package_manager: Annotated[
        bool,
        typer.Option("--package-manager", help="For hooks of the package manager: only where it is not seen itself."),
    ] = False,
) -> None:
    """Keep what changes from now on, by whomever, instead of undoing it; what was there before stays as a version."""
    by = BY_MANAGER if for_package_manager else BY_PERSON
    _tell(CLI.call("vault-window", act="open", minutes=_minutes(lasting), by=by))


@window.command("close")
def close_window(
    for_package_manager: Annotated[bool, typer.Option("--package-manager", help="The window of its hooks.")] = False,
) -> None:
    """Keep what was changed until now, and undo what changes from now on."""
    _tell(CLI.call("vault-window", act="close", by=BY_MANAGER if for_package_manager else BY_PERSON))


@window.command("status")
def window_status() -> None:
    """Say whether a window is open, and who opened it."""
    _tell(CLI.call("vault-window"))


def _carry_out(steps: list[dict[str, Any]]) -> list[str]:
    """Have the agent do `steps`, a part at a time; return what could not be done, in words."""
    failed: list[str] = []
    with Progress(console=ERR, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("putting back", total=len(steps))
        for first in range(0, len(steps), _AT_ONCE):
            part = steps[first : first + _AT_ONCE]
            failed += CLI.call("vault-put", steps=part)
            progress.advance(task, len(part))
    return failed


def _print(rows: list[dict[str, Any]], as_json: bool, columns: dict[str, str]) -> None:
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns.values()))
    OUT.print(table)


def _cell(name: str, value: Any) -> str:
    if name == "taken_at":
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    if name == "suspended":
        return "waits for `mamplus vault restore`" if value else "protected"
    return str(value)[:16] if name == "sha256" else safe(value)


def _tell(state: dict[str, Any]) -> None:
    if not state["open_for_s"]:
        OUT.print("no window is open: changes to protected files are undone")
    else:
        OUT.print(f"changes to protected files are kept for {in_words(state['open_for_s'])} ({', '.join(state['by'])})")


def _epoch(at: datetime | None) -> float | None:
    return at.astimezone().timestamp() if at else None


def _minutes(text: str) -> float:
    """Return minutes for "30s", "15m", "2h"; ConfigInvalid says what was wanted."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal():
        raise ConfigInvalid(f"--for {text!r}; want a number and a unit, like 30s, 15m or 2h")
    return int(number) * _UNITS[unit]
