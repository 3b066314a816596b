# SPDX-License-Identifier: Apache-2.0
"""Keeps the second layer in place: says what it is to be, and puts it back when somebody took it away.

Journey: refusals -> [secondlayer] -> netrules_helper -> kernel.

Other programs change whole tables: `iptables -F`, `nft flush ruleset`, a firewall manager that reloads. nftables tells
of every change (NFNLGRP_NFTABLES). iptables-legacy tells nobody; but all its programs take the lock XTABLES_LOCK, and
the kernel tells who opened that (inotify). So a thread waits for either without waking up by itself, asks how large
the filter tables are (two system calls), and only when that is another than before runs the helper. What happens
without the lock is noticed with the service's next tick. Meanwhile the hooks refuse as before.
"""

import contextlib
import errno
import logging
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
from inotify_simple import INotify, flags

from mamplus_host.config import Config
from mamplus_host.errors import MamplusError, NetfilterFailed
from mamplus_host.executor import helper
from mamplus_host.executor.network.netfilter import OWN
from mamplus_host.executor.network.netrules import Rules
from mamplus_host.files import write_whole
from mamplus_host.kernel._native import lib
from mamplus_host.tamper.rules import Sizes

LOG = logging.getLogger("mamplus")
HELPER_S = 30.0  # for one namespace; the lock of iptables may be another program's for a while
XTABLES_LOCK = os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock"  # as iptables-legacy has it
SETTLE_S = 0.05  # a reload is a hundred messages: look once at the end of them
_AT_MOST_S = 0.3  # but not later than so long after the first
_NFT = "nftables"  # netrules_helper.Nft.name: that module is the helper's
_NFTABLES = 1 << (7 - 1)  # NFNLGRP_NFTABLES, as a group mask
_BUFFER_BYTES = 1 << 16
_SO_RCVBUFFORCE, _QUEUE_BYTES = 33, 1 << 20  # of a reload's messages; more are lost, which is told, too
_AGAIN_S = 0.2
_LOOKS = 4  # in a row, at somebody who changes tables all the time; then the next news is waited for


class SecondLayer:
    """The rules in all namespaces of the scope."""

    def __init__(self, config: Config, *, layer: str = "best") -> None:
        """`layer`: iptables or nftables; "best": what the kernel has, found by trying."""
        self._config, self._layer = config, layer
        self._lock = threading.Lock()  # one helper at a time
        self._rules = Rules()
        self._thread: _Waiter | None = None
        self._is_put_off = False
        self._mark = config.state / "second-layer"  # there while rules of ours may be: also those of an agent before us
        self._stands = self._mark.exists()
        self.layers: dict[str, str] = {}  # namespace -> iptables or nftables, once made
        self.fault = ""
        self.renewed = 0  # how often somebody had taken rules away, and they were put back

    def put_off(self) -> None:
        """Leave the rules to the thread, until `begin` starts it: a helper takes up to HELPER_S a namespace."""
        self._is_put_off = True

    def follow(self, rules: Rules) -> None:
        """Make the rules these: at once, or by the thread of `begin`, see `put_off`; what goes wrong is in `fault`."""
        if rules == self._rules and self._stands is not rules.is_empty:
            return
        self._rules = rules
        if self._thread is not None:
            self._thread.order()
        elif not self._is_put_off:
            self.settle()

    def poke(self) -> None:
        """Have the thread look, with every tick: what is done without the lock tells nobody."""
        if self._thread is not None:
            self._thread.wake()

    def begin(self, noticed: Callable[[], object]) -> None:
        """Have a thread keep the rules; `noticed` is called there when a table was changed."""
        self._thread = _Waiter(self._config, self, noticed)
        self._thread.start()
        if self._is_put_off:
            self._is_put_off = False
            self._thread.order()

    def stop(self) -> None:
        """End the thread; the rules stay."""
        if self._thread is not None:
            self._thread.end()
            self._thread = None

    def look(self) -> bool:
        """Put back what is gone; True when something was. NetfilterFailed."""
        with self._lock:
            if self._rules.is_empty:
                return False
            changed = [self._ensure(name) for name in self._names()]
            self.fault = ""
            return any(changed)

    def settle(self) -> None:
        """Make the rules what was said last; what goes wrong is in `fault`."""
        try:
            self._make()
        except (MamplusError, OSError) as error:
            self.fault = str(error)
            LOG.error("%s; the hooks refuse all the same", error)

    def _make(self) -> None:
        with self._lock:
            rules = self._rules
            if rules.is_empty and not self._stands:
                return
            self._stands = True
            write_whole(self._mark, b"")
            for name in self._names():
                self._ensure(name)
            self.fault = ""
            if rules.is_empty:
                self._mark.unlink(missing_ok=True)
                self._stands, self.layers = False, {}

    def _ensure(self, name: str) -> bool:
        answer = _run("ensure", name, self._layer, msgspec.json.encode(self._rules))
        self.layers[name] = str(answer["layer"])
        return bool(answer["changed"])

    def _names(self) -> tuple[str, ...]:
        return self._config.scope.netns or (OWN,)


class _Waiter(threading.Thread):
    """Waits for news of tables, and for what `follow` says."""

    def __init__(self, config: Config, layer: SecondLayer, noticed: Callable[[], object]) -> None:
        super().__init__(name="second-layer", daemon=True)
        self._layer, self._noticed = layer, noticed
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._orders: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_ending = False
        self._told = 0  # messages of nftables
        self._seen: object = None
        self._sizes = Sizes(config)
        self._news = list(_nftables_sockets(config))
        self._lock_file = _watch_lock()
        self._poll = select.poll()
        for descriptor in (self._wake, *self._news, *([self._lock_file] if self._lock_file else [])):
            self._poll.register(descriptor, select.POLLIN)

    def order(self) -> None:
        """Have the rules made what was said last."""
        self._orders.put(None)
        self.wake()

    def wake(self) -> None:
        """Have a look taken."""
        os.eventfd_write(self._wake, 1)

    def end(self) -> None:
        self._is_ending = True
        os.eventfd_write(self._wake, 1)
        self.join(HELPER_S)

    def run(self) -> None:
        try:
            while not self._is_ending:
                self._poll.poll()
                self._turn_alone()
        finally:
            self._close()

    def _turn_alone(self) -> None:
        """Take a turn so that its failure cannot end the thread: the rules would be kept by nobody."""
        try:
            self._turn()
        except Exception as error:  # told, shown in `status`; the next news or tick tries again
            fault = f"{type(error).__name__}: {error}"
            if fault != self._layer.fault:  # one that comes at every turn would fill the log
                LOG.exception("a look at the second layer failed; the hooks refuse all the same")
            self._layer.fault, self._seen = fault, None
            time.sleep(_AGAIN_S)

    def _turn(self) -> None:
        self._drain()
        if self._take_orders():
            self._layer.settle()
            self._seen = None
        elif self._is_ending or self._state() == self._seen:
            return
        if self._put_back():
            self._layer.renewed += 1
            LOG.warning("rules of refusals were gone and are back; the hooks refused meanwhile")
        self._noticed()

    def _put_back(self) -> bool:
        """Put back what is gone, until a look finds all in place; whether something was gone.

        What counts as seen was asked for before that look: whoever changes a table behind it is noticed.
        """
        found = False
        for _again in range(_LOOKS):
            self._drain()
            state = self._state()
            if state == self._seen or self._is_ending:
                break
            try:
                is_changed = self._layer.look()
            except NetfilterFailed as error:
                self._layer.fault = str(error)
                LOG.error("%s; the hooks refuse all the same", error)
                time.sleep(_AGAIN_S)  # a table that changes under nft makes it fail; at last the next tick tries
                continue
            found = found or is_changed
            if not is_changed:
                self._seen = state
        return found

    def _state(self) -> object:
        """Return what tells that a table was changed: nftables has no size that could be asked for."""
        is_nftables = _NFT in self._layer.layers.values()
        return self._sizes.now(), self._told if is_nftables else 0

    def _drain(self) -> None:
        """Read all that is there, until nothing comes for SETTLE_S."""
        until = time.monotonic() + _AT_MOST_S
        self._read()
        while not self._is_ending and time.monotonic() < until and self._poll.poll(SETTLE_S * 1000):
            self._read()

    def _read(self) -> None:
        for one in self._news:
            self._told += _messages(one)
        if self._lock_file is not None:
            self._lock_file.read(timeout=0)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _take_orders(self) -> bool:
        found = not self._orders.empty()
        while not self._orders.empty():
            self._orders.get()
        return found

    def _close(self) -> None:
        self._sizes.close()
        for one in (self._wake, *self._news):
            os.close(one)
        if self._lock_file is not None:
            self._lock_file.close()


def _messages(descriptor: int) -> int:
    """Read all that a netlink socket holds; return how many messages that were, lost ones counted as one."""
    found = 0
    while True:
        try:
            os.read(descriptor, _BUFFER_BYTES)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                return found
        found += 1


def _nftables_sockets(config: Config) -> Iterator[int]:
    """Yield a descriptor a namespace that is readable when nftables changed there; none where the kernel has none."""
    for place in [f"/run/netns/{name}" for name in config.scope.netns] or [""]:
        number = lib.mamplus_rules_socket(place.encode(), int(socket.AF_NETLINK))
        if number < 0:
            continue
        one = socket.socket(fileno=number)
        one.setblocking(False)
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
            one.bind((0, _NFTABLES))
        yield one.detach()


def _watch_lock() -> INotify | None:
    """Return what is readable when somebody closed the lock of iptables; None where it cannot be watched."""
    watch = INotify(nonblocking=True)
    try:
        os.close(os.open(XTABLES_LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        watch.add_watch(XTABLES_LOCK, flags.CLOSE_NOWRITE | flags.CLOSE_WRITE | flags.DELETE_SELF)
        return watch
    except OSError as error:
        LOG.warning("%s: changes by iptables-legacy are noticed with the next tick, not at once", error)
        watch.close()
        return None


def _run(command: str, netns: str, layer: str, stdin: bytes) -> dict[str, object]:
    """Run the helper; NetfilterFailed with its own words when it does not succeed."""
    late = f"the rules of namespace {netns!r} took more than {HELPER_S:g} s; see who holds them"
    said = helper.run(
        "network.netrules_helper", command, "--netns", netns, "--layer", layer, within_s=HELPER_S, late=late,
        failed=NetfilterFailed, told=stdin,
    )  # fmt: skip
    answer: dict[str, object] = msgspec.json.decode(said)
    return answer
