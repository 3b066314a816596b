# SPDX-License-Identifier: Apache-2.0
"""The commands of `mamplus`, in the order in which help shows them."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mamplus_host import __version__
from mamplus_host.cli import (
    actions,
    acts,
    alerts,
    ask,
    ble,
    check,
    detach,
    doctor,
    enroll,
    events,
    evidence,
    isolate,
    maintenance,
    outbox,
    protect,
    quarantine,
    status,
    undo,
    vault,
)
from mamplus_host.cli.state import CLI
from mamplus_host.control.client import NoAgent
from mamplus_host.errors import MamplusError

app = typer.Typer(
    name="mamplus",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Defend this device: refuse, hold and undo what the company's black list (BLE) names.\n\n"
    "Every command takes --config FILE (default /etc/mamplus/agent.toml). "
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.",
)


def _version(is_asked: bool) -> None:
    if is_asked:
        print(f"mamplus {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    _version_asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before the command."""


app.command("doctor")(doctor.run)


@app.command("run")
def run() -> None:
    """Run the agent in the foreground; prints "ready ..." once everything is attached."""


app.command("status")(status.run)
app.command("events")(events.run)
app.command("alerts")(alerts.run)
app.command("explain")(alerts.explain)
app.command("check")(check.run)
app.command("undo")(undo.run)
app.add_typer(actions.app, name="actions")
app.add_typer(actions.rules_app, name="rules")
app.add_typer(ble.app, name="ble")
app.command("isolate")(isolate.run)
app.command("cut")(acts.cut)
app.command("refuse")(acts.refuse)
app.command("protect")(protect.run)
app.command("unprotect")(protect.unprotect)
app.add_typer(vault.app, name="vault")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(evidence.app, name="evidence")
app.command("lock")(acts.lock)
app.add_typer(acts.radio_app, name="radio")
app.add_typer(acts.usb_app, name="usb")
app.command("mount")(acts.mount)
app.command("wipe")(acts.wipe)
app.command("ask")(ask.run)
app.command("restore")(vault.restore)
app.add_typer(outbox.app, name="outbox")
app.command("enroll")(enroll.run)
app.command("maintenance")(maintenance.run)
app.command("detach")(detach.run)


def run_app(config: Path, arguments: list[str]) -> int:
    """Run one command line and return its exit code; every error becomes one sentence on stderr."""
    CLI.config_path = config
    try:
        app(arguments)  # typer answers wrong usage itself, and always ends with SystemExit
    except SystemExit as end:
        return int(end.code or 0)
    except NoAgent as error:
        print(f"mamplus: {error}; start one: mamplus run --config {shlex.quote(str(config))}", file=sys.stderr)
        return error.exit_code
    except MamplusError as error:
        print(f"mamplus: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `mamplus events | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except PermissionError as error:
        print(f"mamplus: {error.strerror}: {error.filename!r}; run this as root", file=sys.stderr)
        return 1
    return 0
