# SPDX-License-Identifier: Apache-2.0
"""`mamplus isolate`: take the device off the network but for its lifeline, and put it back."""

from typing import Annotated, Any, Literal

import typer

from mamplus_host.cli.acts import seconds
from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.errors import ConfigInvalid
from mamplus_host.generations.age import in_words


def run(
    how: Annotated[Literal["on", "off"], typer.Argument(metavar="on|off")],
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="on: how long, as 90s, 30m, 2h or 1d; else until `off`.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="on: why, for the journal.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Leave only the enterprise, DNS, DHCP, NTP and loopback reachable (on), or everything again (off)."""
    if how == "off":
        if duration or reason:
            raise ConfigInvalid("isolate off takes neither --for nor --reason; see mamplus isolate --help")
        state = CLI.call("isolate-off")
    else:
        state = CLI.call("isolate-on", for_s=seconds(duration) if duration else 0, reason=reason)
    if as_json:
        print_json(state)
    else:
        OUT.print(safe(_words(state)))


def _words(state: dict[str, Any]) -> str:
    if not state["isolated"]:
        return "not isolated: the device uses the network as before"
    left = "until `mamplus isolate off`" if state["left_s"] is None else f"for {in_words(state['left_s'])}"
    return f"isolated {left} (undo: {state['id']}); open: {', '.join(state['lifeline'])}"
