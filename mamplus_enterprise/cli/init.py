# SPDX-License-Identifier: Apache-2.0
"""`init`: found an enterprise."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import keys_of, passphrase_of, quorum, remark
from mamplus_host.errors import ConfigInvalid


def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory.")],
    dev: Annotated[bool, typer.Option("--dev", help="Unencrypted keys, and plain HTTP on loopback.")] = False,
    name: Annotated[str, typer.Option(help="What people call the enterprise.")] = "MAM+ enterprise",
    url: Annotated[str, typer.Option(help="Address in enrolment tokens; else where `serve` listened last.")] = "",
    host: Annotated[list[str] | None, typer.Option(help="Name or address for the certificate; repeatable.")] = None,
    root_keys: Annotated[int, typer.Option(metavar="N", help="Keys of role root; else 3, with --dev 1.")] = 0,
    root_threshold: Annotated[int, typer.Option(metavar="M", help="How many must sign; else 2, with --dev 1.")] = 0,
    targets_keys: Annotated[int, typer.Option(metavar="N", help="Keys of role targets; else 2, with --dev 1.")] = 0,
    targets_threshold: Annotated[int, typer.Option(metavar="M", help="How many must sign; else 1.")] = 0,
) -> None:
    """Make keys, repository, database, certificate and admin token in DIR; with --keys, the offline keys there."""
    from mamplus_enterprise.found import Wishes, found

    passphrase = passphrase_of(context)
    if passphrase is None and not dev:
        raise ConfigInvalid("the keys need a passphrase: say --passphrase-file FILE, or --dev for unencrypted keys")
    if url and not url.startswith("https://") and not (dev and url.startswith("http://")):
        raise ConfigInvalid(f"--url is {url!r}, want https://HOST:PORT")
    usual = {"root": (1, 1), "targets": (1, 1)} if dev else {"root": (3, 2), "targets": (2, 1)}
    said = {"root": (root_keys, root_threshold), "targets": (targets_keys, targets_threshold)}
    quorums = {
        role: quorum(role, said[role][0] or keys, said[role][1] or least) for role, (keys, least) in usual.items()
    }
    wishes = Wishes(
        name=name, url=url, hosts=host or (), dev=dev, passphrase=None if dev else passphrase, quorums=quorums,
        offline=keys_of(context),
    )  # fmt: skip
    home = found(directory, wishes)
    print(f"enterprise {home.settings.enterprise_id} in {directory}")
    remark(f"administrators' token: {directory / 'admin.token'}")
    if dev:
        remark("--dev: the keys are not encrypted, and loopback is served without TLS; not for production")
    else:
        offline = ", ".join(str(path) for path in keys_of(context) or [home.keys])
        remark(
            f"keep the root and targets keys in {offline} apart from this machine, and from each other: `keys export`"
            " moves them. They are needed to rotate keys and, once a year, for `renew`"
        )
