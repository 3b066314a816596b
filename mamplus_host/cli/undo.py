# SPDX-License-Identifier: Apache-2.0
"""`mamplus undo`."""

from typing import Annotated

import typer

from mamplus_host.cli.state import CLI, OUT, safe


def run(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="Of the alert, as `mamplus alerts` shows it.")],
) -> None:
    """Take back what was done about an alert: thaw, or bring back the replaced file."""
    for outcome in CLI.call("undo", id=alert_id):
        OUT.print(f"{safe(outcome['action'])}: {outcome['state']} {safe(outcome['detail'])}")
