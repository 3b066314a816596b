# SPDX-License-Identifier: Apache-2.0
"""`init`: found an enterprise."""

from pathlib import Path
from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import passphrase_of, remark
from mamplus_host.errors import ConfigInvalid


def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory.")],
    dev: Annotated[bool, typer.Option("--dev", help="Unencrypted keys, and plain HTTP on loopback.")] = False,
    name: Annotated[str, typer.Option(help="What people call the enterprise.")] = "MAM+ enterprise",
    url: Annotated[str, typer.Option(help="Address in enrolment tokens; else where `serve` listened last.")] = "",
    host: Annotated[list[str] | None, typer.Option(help="Name or address for the certificate; repeatable.")] = None,
) -> None:
    """Make keys, repository, database, certificate and admin token in DIR."""
    from mamplus_enterprise.found import Wishes, found

    passphrase = passphrase_of(context)
    if passphrase is None and not dev:
        raise ConfigInvalid("the keys need a passphrase: say --passphrase-file FILE, or --dev for unencrypted keys")
    if url and not url.startswith("https://") and not (dev and url.startswith("http://")):
        raise ConfigInvalid(f"--url is {url!r}, want https://HOST:PORT")
    wishes = Wishes(name=name, url=url, hosts=host or (), dev=dev, passphrase=None if dev else passphrase)
    home = found(directory, wishes)
    print(f"enterprise {home.settings.enterprise_id} in {directory}")
    remark(f"administrators' token: {directory / 'admin.token'}")
    if dev:
        remark("--dev: the keys are not encrypted, and loopback is served without TLS; not for production")
    else:
        remark(f"keep {home.keys / 'root.pem'} elsewhere: it is needed only to renew the root, every second year")
