# SPDX-License-Identifier: Apache-2.0
"""`token`: let a device in."""

from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import opened, remark, who

commands = typer.Typer(help="Make enrolment tokens.", no_args_is_help=True)


@commands.callback()
def group() -> None:
    """Make enrolment tokens."""


@commands.command("new")
def new(
    context: typer.Context,
    url: Annotated[str, typer.Option(help="Address of the enterprise as the device sees it.")] = "",
) -> None:
    """Print a token for one device: `mamplus enroll URL --token TOKEN`. Good once, for a day."""
    from mamplus_enterprise.devices.tokens import new_token

    with opened(context) as (home, store):
        token = new_token(home, store, who=who(), url=url)
        remark(f"for one device, within 24 hours: mamplus enroll {url or home.url} --token TOKEN")
    print(token)
