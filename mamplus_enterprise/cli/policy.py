# SPDX-License-Identifier: Apache-2.0
"""`policy`: what devices do about age, doubt and silence."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import home_of, opened, remark, who

commands = typer.Typer(help="Show, check and set the devices' policy (docs/policy.md).", no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="FILE", help="JSON, as `policy show` prints it.")]


@commands.command("show")
def show(context: typer.Context) -> None:
    """Print the policy with every field: a beginning for the next one."""
    from mamplus_enterprise.policy import current
    from mamplus_host.policy.policy import encode

    print(encode(current(home_of(context))).decode(), end="")


@commands.command("check")
def check(file: File) -> None:
    """Say whether devices would take FILE; sets nothing."""
    from mamplus_enterprise.policy import read

    read(file)
    print("devices would take it")


@commands.command("set")
def set_(context: typer.Context, file: File) -> None:
    """Make FILE the policy. Devices have it after `ble publish`."""
    from mamplus_enterprise.policy import read, set_policy

    wanted = read(file)
    with opened(context) as (home, store):
        chosen = set_policy(home, store, wanted, who=who())
    print(f"policy version {chosen.version} is set")
    remark("not published yet; devices have it after: mamplus-enterprise ble publish")
