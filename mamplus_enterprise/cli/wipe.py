# SPDX-License-Identifier: Apache-2.0
"""`wipe`: order one device to wipe its professional container. `unseal`: read what a device sealed."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.maintenance import seconds
from mamplus_enterprise.cli.shared import keys_of, opened, passphrase_of, print_json, remark, who
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole

MAX_SEALED_BYTES = 300 << 20


def wipe(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, or six digits of its id at least.")],
    within: Annotated[str, typer.Option(metavar="TIME", help="By when the device must get it: 30m, 2h, 30d.")] = "30d",
    reason: Annotated[str, typer.Option(help="Why; for the audit log and the device.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Yes: what is in the container will be gone for good.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the order here, for a stick.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print an order to wipe the professional container of one device, once: `mamplus wipe ORDER` there."""
    from mamplus_enterprise.orders import Wanted, issue
    from mamplus_host.maintenance.order import WIPE

    if not yes:
        raise ConfigInvalid(f"{device!r} would lose its professional data for good, with no way back; say --yes")
    wanted = Wanted(what=WIPE, device=device, within_s=seconds(within), reason=reason or "no reason given", who=who())
    with opened(context) as (home, store):
        issued = issue(home, store, wanted, passphrase_of(context), keys_of(context))
    if as_json:
        return print_json({"id": issued.id, "device": issued.device_id, "order": issued.text})
    remark(f"for {issued.device_name} ({issued.device_id[:12]}), order {issued.id}, good for {within}:")
    if out is not None:
        write_whole(out, issued.text.encode())
        print(f"written: {out}")
    else:
        print(issued.text, end="")
    return None


def unseal(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `mamplus evidence|quarantine export` wrote it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file for its content.")],
) -> None:
    """Decrypt evidence, or a file from quarantine, that a device sealed for this enterprise."""
    from mamplus_enterprise.ble.keys import load_seals
    from mamplus_host.sealed import unseal as content_of

    if out.exists():
        raise ConfigInvalid(f"{str(out)!r} is there already; name another file")
    with opened(context) as (home, _store):
        try:
            with file.open("rb") as sealed:
                data = sealed.read(MAX_SEALED_BYTES)
        except OSError as error:
            raise ConfigInvalid(f"cannot read {str(file)!r}: {error.strerror}") from None
        content = content_of(data, load_seals(home, passphrase_of(context), keys_of(context)))
    write_whole(out, content)  # for its owner alone
    print(f"{len(content)} bytes written: {out}")
