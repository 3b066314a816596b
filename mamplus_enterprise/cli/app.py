# SPDX-License-Identifier: Apache-2.0
"""The commands together, and the options that all of them take."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli import (
    alerts,
    ble,
    devices,
    init,
    keys,
    maintenance,
    policy,
    root,
    serve,
    token,
    upgrade,
    wipe,
)
from mamplus_enterprise.cli.shared import Where
from mamplus_host import __version__

app = typer.Typer(
    help="The company's side of MAM+: write the list, answer alerts, serve devices.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:
    if is_asked:
        print(f"mamplus-enterprise {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Directory of the enterprise; anywhere on the line.")
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help="Its first line decrypts the keys; anywhere."),
    ] = None,
    keys_dir: Annotated[
        list[Path] | None,
        typer.Option("--keys", metavar="DIR", help="Where offline keys are, as a stick; repeatable, anywhere."),
    ] = None,
    _version_asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = Where(directory, passphrase_file, tuple(keys_dir or ()))


app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("upgrade")(upgrade.upgrade)
app.command("renew")(root.renew)
app.add_typer(devices.commands, name="devices")
app.command("maintenance")(maintenance.maintenance)
app.command("wipe")(wipe.wipe)
app.command("lock")(wipe.lock)
app.add_typer(wipe.commands, name="orders")
app.command("unseal")(wipe.unseal)
app.add_typer(ble.commands, name="ble")
app.add_typer(alerts.commands, name="alerts")
app.add_typer(policy.commands, name="policy")
app.add_typer(token.commands, name="token")
app.add_typer(root.commands, name="root")
app.add_typer(keys.commands, name="keys")
