# SPDX-License-Identifier: Apache-2.0
"""`mamplus undo`."""

from typing import Annotated

import typer

from mamplus_host.cli.state import CLI, OUT, safe


def run(
    alert_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of the alert (`mamplus alerts`) or the action (`mamplus actions`).")
    ],
) -> None:
    """Take back what was done about an alert: let a program go on, bring back a file, ..."""
    for outcome in CLI.call("undo", id=alert_id):
        OUT.print(f"{safe(outcome['action'])}: {outcome['state']} {safe(outcome['detail'])}")
