# SPDX-License-Identifier: Apache-2.0
"""`root` and `renew`: who signs, new keys for a role, signatures before they end."""

from typing import Annotated, Any

import typer

from mamplus_enterprise.cli.shared import (
    home_of,
    keys_of,
    passphrase_of,
    print_json,
    print_table,
    quorum,
    remark,
)
from mamplus_host.errors import ConfigInvalid

commands = typer.Typer(help="Look at who signs, and give a role new keys.", no_args_is_help=True)
_ROLES = (
    "root, targets, snapshot, timestamp, carrier, seal, maintenance, policy, ble-enterprise, ble-emergency or ble-feeds"
)


@commands.command("show")
def show(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False
) -> None:
    """Show each role's keys, how many of them must sign, where they are and when the signature ends."""
    from mamplus_enterprise.ble.keys import key_folders
    from mamplus_enterprise.ble.rotation import shown

    home = home_of(context)
    said: dict[str, Any] = shown(home, key_folders(home, keys_of(context)))
    if as_json:
        return print_json(said)
    print(f"root version {said['version']}")
    rows = [
        (
            one["role"],
            f"{one['threshold']} of {len(one['keys'])}" if one["threshold"] else "no metadata",
            key["keyid"][:16],
            key["where"],
            one["expires"] or "-",
        )
        for one in said["roles"]
        for key in one["keys"]
    ]
    print_table(("ROLE", "MUST SIGN", "KEY", "WHERE", "EXPIRES"), rows)
    if said["aged"]:
        remark(f"more than half of their time is over: {', '.join(said['aged'])}; say: renew")
    return None


@commands.command("rotate")
def rotate(
    context: typer.Context,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help=f"Repeatable: {_ROLES}.")] = None,
    keys: Annotated[int, typer.Option("--count", metavar="N", help="How many keys; else as many as now.")] = 0,
    threshold: Annotated[int, typer.Option(metavar="M", help="How many of them must sign; else as now.")] = 0,
) -> None:
    """Give roles (root, when none is said) new keys, and revoke the old ones; devices follow by themselves."""
    from mamplus_enterprise.ble import rotation
    from mamplus_enterprise.ble.keys import key_folders, load_signers
    from mamplus_enterprise.ble.roles import SIGNING

    home, folders = home_of(context), keys_of(context)
    passphrase = None if home.settings.dev else passphrase_of(context)
    signers = load_signers(home, passphrase_of(context), SIGNING, folders)
    chosen = tuple(dict.fromkeys(role or ["root"]))
    wanted = _quorum(home, chosen, keys, threshold)
    if passphrase is None and not home.settings.dev:
        raise ConfigInvalid("the new keys need a passphrase: say --passphrase-file FILE")
    done = rotation.rotate(
        home, signers, rotation.Wish(roles=chosen, quorum=wanted), key_folders(home, folders), passphrase
    )
    for name, keyids in done.keyids.items():
        print(f"{name}: {', '.join(keyids)}")
        for path in done.files[name]:
            print(f"  written: {path}")
    print(f"root version {done.version}")


def _quorum(home: Any, chosen: tuple[str, ...], keys: int, threshold: int) -> Any:
    """Return what was asked for; what was left out stays as it is. None: all of it."""
    if not keys and not threshold:
        return None
    from mamplus_enterprise.ble import repository

    if len(chosen) != 1:
        raise ConfigInvalid("--count and --threshold are for one role; say --role once")
    state = repository.read(home)
    return quorum(chosen[0], keys or len(state.keyids(chosen[0])), threshold or state.threshold(chosen[0]))


def renew(context: typer.Context) -> None:
    """Sign again whatever is past half of its time and whose keys are at hand; --keys DIR brings the offline ones."""
    from mamplus_enterprise.ble import repository
    from mamplus_enterprise.ble.keys import load_signers
    from mamplus_enterprise.ble.roles import SIGNING
    from mamplus_enterprise.lock import locked

    home = home_of(context)
    signers = load_signers(home, passphrase_of(context), SIGNING, keys_of(context))
    with locked(home.publish_lock):
        done = repository.renew(home, signers)
        left = repository.aged(home)
    print(f"signed again: {', '.join(done) or 'nothing, all is fresh'}")
    if left:
        remark(f"more than half of their time is over, and their keys are not at hand: {', '.join(left)}")
