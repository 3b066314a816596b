# SPDX-License-Identifier: Apache-2.0
"""`maintenance`: let root work on one device's agent for a while."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import keys_of, opened, passphrase_of, print_json, remark, who
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole

_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def maintenance(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, or six digits of its id at least.")],
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it is open: 30m, 2h, 1d.")] = "30m",
    within: Annotated[str, typer.Option(metavar="TIME", help="By when the code must be entered.")] = "24h",
    reason: Annotated[str, typer.Option(help="Why; for the audit log.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the code here, for a stick or a QR.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print a code that opens a maintenance window on one device, once: `mamplus maintenance CODE` there."""
    from mamplus_enterprise.maintenance import Grant, issue

    grant = Grant(
        device=device,
        minutes=seconds(for_) // 60,
        within_s=seconds(within),
        reason=reason or "no reason given",
        who=who(),
    )
    with opened(context) as (home, store):
        issued = issue(home, store, grant, passphrase_of(context), keys_of(context))
    if as_json:
        return print_json({"id": issued.id, "device": issued.device_id, "code": issued.text})
    remark(
        f"for {issued.device_name} ({issued.device_id[:12]}), {grant.minutes} minutes, to be entered within {within}:"
    )
    if out is not None:
        write_whole(out, (issued.text + "\n").encode())  # for its owner alone: who has it may use it
        print(f"written: {out}")
    else:
        print(issued.text)
    return None


def seconds(text: str) -> int:
    """Return "30m", "2h" or "1d" in seconds; ConfigInvalid for anything else."""
    found = re.fullmatch(r"(\d{1,4})([mhd])", text.strip())
    if found is None:
        raise ConfigInvalid(f"{text!r} is no time; want a number and m, h or d, as 30m")
    return int(found[1]) * _UNITS[found[2]]
