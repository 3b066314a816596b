# SPDX-License-Identifier: Apache-2.0
"""`mamplus enroll`: works before the agent runs."""

import socket
from typing import Annotated

import typer

from mamplus_host.cli.state import CLI, OUT, safe
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable
from mamplus_host.outbox.enroll import enroll


def run(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the enterprise, like https://mam.example:8443.")],
    token: Annotated[str, typer.Option("--token", metavar="T", help="As printed by `mamplus-enterprise token new`.")],
    name: Annotated[str, typer.Option("--name", help="What people call this device; default: its host name.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Leave the enterprise that this device belongs to.")] = False,
) -> None:
    """Make this device known to its enterprise; the token carries all the trust that is needed."""
    config = CLI.config
    done = enroll(url, token, config.state, name or socket.gethostname(), force=force)
    OUT.print(f"enrolled as {safe(name or socket.gethostname())} ({done.device_id[:16]}) at {safe(done.url)}")
    try:
        client.call(config.control_socket, "identity-changed")
    except AgentUnreachable:
        OUT.print("Next: mamplus ble refresh, and start the agent.", style="dim")
