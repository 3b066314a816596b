# SPDX-License-Identifier: Apache-2.0
"""Serve one enterprise until a signal ends it."""

import asyncio
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from mamplus_enterprise.api.app import create_app
from mamplus_enterprise.api.context import Context
from mamplus_enterprise.api.news import News
from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.keys import Keyring
from mamplus_enterprise.ble.roles import OFFLINE, ONLINE
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked
from mamplus_enterprise.server.listen import MAX_CONNECTIONS, Listener, bind
from mamplus_enterprise.storage import migrate
from mamplus_enterprise.storage.store import Store
from mamplus_enterprise.tls import server_context
from mamplus_host.errors import MamplusError

RENEW_EVERY_S = 6 * 3600
_SPARE_DESCRIPTORS = 128  # database, threads, files that are being served
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """What `serve` says once it listens."""

    url: str
    generation: int


def run(home: Home, listen: str, passphrase: bytes | None, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM or SIGINT. Whatever is wrong is raised before anything is announced."""
    store = Store(home)
    migrate.check(store.engine)
    # In production the offline keys are elsewhere, and left alone where they are not: `renew` is for them.
    keyring = Keyring(home, passphrase, (*ONLINE, *(OFFLINE if home.settings.dev else ())))
    _renew(home, keyring)
    tls = server_context(home, passphrase)
    with bind(listen) as listening:
        try:
            asyncio.run(_serve(Context(home, store, keyring, News(home)), tls, listening, on_ready))
        finally:
            store.close()


def _ready(home: Home, listening: socket.socket, generation: int) -> Ready:
    host, port = listening.getsockname()[:2]
    url = f"https://{_reachable(host)}:{port}"
    home.served_at(url)
    return Ready(url, generation)


def _reachable(host: str) -> str:
    """Return an address that others can use for `host`, which may be the wildcard."""
    if host in ("0.0.0.0", "::"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # a documentation address: chooses a route, sends nothing
                host = probe.getsockname()[0]
            except OSError:
                host = "127.0.0.1"
    return f"[{host}]" if ":" in host else host


async def _serve(
    context: Context, tls: ssl.SSLContext, listening: socket.socket, on_ready: Callable[[Ready], None]
) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    context.news.start()
    listener = Listener(
        create_app(context), tls, max_connections=_room(), plain_on_loopback=context.home.settings.dev
    )  # fmt: skip
    tasks = [loop.create_task(listener.run(listening)), loop.create_task(_renew_now_and_then(context))]
    on_ready(_ready(context.home, listening, context.news.current.generation))
    await ended.wait()
    for task in tasks:
        task.cancel()
    context.news.close()  # long polls answer with what there is
    await listener.end()


def _room() -> int:
    """Return how many connections this process may hold; each is a descriptor, twice while it begins."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + _SPARE_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return max(1, min(MAX_CONNECTIONS, (allowed - _SPARE_DESCRIPTORS) // 2))


async def _renew_now_and_then(context: Context) -> None:
    while True:
        await asyncio.sleep(RENEW_EVERY_S)
        try:
            await asyncio.to_thread(_renew, context.home, context.keyring)
        except (MamplusError, OSError) as error:
            _log.error("cannot renew the repository's signatures: %s; trying again in %d s", error, RENEW_EVERY_S)


def _renew(home: Home, keyring: Keyring) -> None:
    with locked(home.publish_lock):
        for role in repository.renew(home, keyring.signers()):
            _log.warning("signed %s again", role)
        for role in repository.aged(home):
            _log.error("it is time to sign %s again, and its keys are not here; say: renew --keys DIR", role)
