# SPDX-License-Identifier: Apache-2.0
"""`mamplus ask`: whoever uses the device asks the company for an exception."""

from typing import Annotated

import typer

from mamplus_host.cli.state import CLI, OUT, safe
from mamplus_host.config import Config
from mamplus_host.control import client
from mamplus_host.errors import ConfigInvalid


def run(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT", help="As the message on the screen names it.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Why you need it, at most 1,000 characters.")],
) -> None:
    """Ask the company for an exception to what was done; needs no root, five times an hour."""
    try:
        config = CLI.config
    except ConfigInvalid:  # it is for root alone: then the socket is where it mostly is
        config = Config()
    OUT.print(safe(client.call(config.ask_socket, "ask", alert=alert_id, text=text)))
