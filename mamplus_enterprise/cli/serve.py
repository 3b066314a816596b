# SPDX-License-Identifier: Apache-2.0
"""`serve`: answer devices and administrators."""

import logging
import os
import sys
from typing import Annotated

import typer

from mamplus_enterprise.cli.shared import home_of, passphrase_of, remark
from mamplus_enterprise.home import DEFAULT_LISTEN


def serve(
    context: typer.Context,
    listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="Where to listen.")] = DEFAULT_LISTEN,
) -> None:
    """Serve devices, administrators' programs and the console until SIGTERM or Ctrl-C."""
    home, passphrase = home_of(context), passphrase_of(context)
    from mamplus_enterprise.server.run import Ready, run

    def on_ready(ready: Ready) -> None:
        print(f"ready {ready.url} generation {ready.generation}", flush=True)
        remark(f"console: {ready.url}/ (token: {home.dir / 'admin.token'})")

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    run(home, listen, passphrase, on_ready)
    sys.stdout.flush()
    os._exit(0)  # all is closed and committed; taking the interpreter apart would cost half a second more
