# SPDX-License-Identifier: Apache-2.0
"""`keys`: where the private keys are, and how they get to a stick, from a stick, onto a token."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import home_of, keys_of, passphrase_of, print_json, print_table, remark

commands = typer.Typer(help="Move keys to a stick and back, or use those of a PKCS#11 token.", no_args_is_help=True)
Role = Annotated[str, typer.Argument(metavar="ROLE")]


@commands.command("list")
def list_(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False
) -> None:
    """List the key files in DIR/keys and --keys DIR: whose they are, and whether that role still has them."""
    from mamplus_enterprise.ble import keyfiles
    from mamplus_enterprise.ble.keys import key_folders

    home = home_of(context)
    rows = keyfiles.listed(home, key_folders(home, keys_of(context)))
    if as_json:
        return print_json(rows)
    columns = ("ROLE", "FILE", "KIND", "STATE")
    return print_table(columns, [(row["role"], row["file"], row["kind"], row["state"]) for row in rows])


@commands.command("export")
def export(
    context: typer.Context,
    role: Role,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory, as on a stick.")],
    keep: Annotated[bool, typer.Option("--keep", help="Copy; else the files here go.")] = False,
) -> None:
    """Move a role's keys to another directory. They stay encrypted as they are."""
    from mamplus_enterprise.ble import keyfiles

    moved = keyfiles.export(home_of(context), role, out, keep=keep)
    print("\n".join(str(path) for path in moved))
    if not keep:
        remark(f"what needs {role} wants --keys {out} from now on")


@commands.command("import")
def import_(context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Take a key that a role has into DIR/keys, encrypted with this enterprise's passphrase."""
    from mamplus_enterprise.ble import keyfiles

    home = home_of(context)
    role, path = keyfiles.take_in(home, file, passphrase_of(context))
    print(f"{role}: {path}")


@commands.command("use")
def use(
    context: typer.Context,
    role: Role,
    uri: Annotated[str, typer.Argument(metavar="URI", help="pkcs11:token=..;id=%02?module-path=..&pin-source=file:..")],
    add: Annotated[bool, typer.Option("--add", help="Beside the keys that the role has; else in their place.")] = False,
) -> None:
    """Let a key on a PKCS#11 token sign for a role: it becomes the role's, as `root rotate` makes new ones."""
    from mamplus_enterprise.ble import keyfiles
    from mamplus_enterprise.ble.keys import key_folders, load_signers
    from mamplus_enterprise.ble.roles import SIGNING

    home, elsewhere = home_of(context), keys_of(context)
    signers = load_signers(home, passphrase_of(context), SIGNING, elsewhere)
    path, version = keyfiles.use(home, signers, role, uri, folders=key_folders(home, elsewhere), keep=add)
    print(f"{role}: {path}\nroot version {version}")
