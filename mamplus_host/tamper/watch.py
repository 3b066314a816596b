# SPDX-License-Identifier: Apache-2.0
"""One look at everything that could have been done to us, with every tick of the service.

Journey: service -> [watch] -> pipeline.

Also asked at once when the responder ended. A silence of our own is found by the clock that stands still while
the device sleeps: the agent was stopped, frozen or starved, whoever did it.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mamplus_host.errors import MamplusError
from mamplus_host.events import Tamper
from mamplus_host.executor.network.netfilter_keeper import NetfilterKeeper
from mamplus_host.kernel.tables import Tables
from mamplus_host.tamper.noticed import Noticed, event
from mamplus_host.tamper.pins import Pins
from mamplus_host.tamper.process import Process, write
from mamplus_host.tamper.rules import Rules

SILENT_S = 15.0  # three ticks
RESPONDER_SILENT_S = 3.0  # three of its beats
_NS = 1_000_000_000
_TRACING = Path("/proc/sys/kernel/ftrace_enabled")


class Watch:
    """The looks of this agent. One thread."""

    def __init__(
        self, *, pins: Pins, tables: Tables, rules: Rules, netfilter: NetfilterKeeper,
        boot_ns: Callable[[], int], heartbeats: Callable[[], dict[str, int]], responder_pid: Callable[[], int],
        wake_responder: Callable[[], object],
    ) -> None:  # fmt: skip
        """`netfilter` looks at our iptables rules and puts them back; `wake_responder` sends the responder SIGCONT."""
        self._pins, self._tables, self._rules, self._netfilter = pins, tables, rules, netfilter
        self._boot_ns, self._heartbeats, self._responder_pid = boot_ns, heartbeats, responder_pid
        self._wake_responder = wake_responder
        self._own = Process(os.getpid(), "the agent")
        self._responder = Process(responder_pid(), "the responder")
        self._looked_s, self._worked_s = time.monotonic(), time.thread_time()
        self._traces = not _is_off(_TRACING)
        self._missed = heartbeats()["agent_missed"]
        self._silent_looks = 0
        self.counts: dict[str, int] = {}  # by kind, since the start

    def look(self) -> list[Tamper]:
        """Return what was found changed since the last look, and put back where that is possible."""
        found = [*self._silence(), *self._tracing(), *self._pins.look(), *self._maps(), *self._rules_gone()]
        found += self._own.look()
        found += self._about_responder()
        for one in found:
            self.counts[one.op] = self.counts.get(one.op, 0) + 1
        return [event(one, self._boot_ns()) for one in found]

    def close(self) -> None:
        self._pins.close()
        self._rules.close()

    def _silence(self) -> Iterator[Noticed]:
        now_s, missed = time.monotonic(), self._heartbeats()["agent_missed"]
        worked_s = time.thread_time()  # work of our own that takes long, as a large list, is no silence
        gap_s = now_s - self._looked_s - (worked_s - self._worked_s)
        self._looked_s, self._worked_s = now_s, worked_s
        before, self._missed = self._missed, missed
        if gap_s >= SILENT_S:
            woken = f"; the responder woke it {missed - before} times" if missed > before else ""
            detail = f"the agent did not run for {gap_s:.0f} s: it was stopped, frozen or starved{woken}"
            yield Noticed(op="silence", detail=detail, target=os.getpid(), is_put_back=True)
        elif missed > before:
            detail = f"the agent was stopped for {gap_s:.0f} s at most, and woken by the responder"
            yield Noticed(op="silence", detail=detail, target=os.getpid(), is_put_back=True)

    def _tracing(self) -> Iterator[Noticed]:
        """Look whether the kernel still calls what is attached to its functions."""
        if self._traces and _is_off(_TRACING):
            detail = "kernel.ftrace_enabled was set to 0, which takes every program of the LSM's away"
            yield Noticed(op="tracing", detail=detail, is_put_back=write(_TRACING, "1"))

    def _maps(self) -> Iterator[Noticed]:
        try:
            names = self._tables.restore()
        except MamplusError as error:
            yield Noticed(op="map", detail=f"the kernel's maps cannot be compared: {error}")
            return
        for name in names:
            yield Noticed(op="map", detail=f"the map {name!r} was changed by somebody else", is_put_back=True)

    def _rules_gone(self) -> Iterator[Noticed]:
        """Tell what was found since the last look, and have the rules read where that is due."""
        for mended in self._netfilter.take():
            self._rules.settle()
            if mended.missing:
                detail = f"iptables rules were gone: {', '.join(mended.missing[:4])}"
                yield Noticed(op="rules", detail=detail, is_put_back=not mended.fault)
            else:
                yield Noticed(op="rules", detail=f"the iptables rules cannot be compared: {mended.fault}")
        if self._rules.look(time.monotonic()):
            self._netfilter.look()

    def _about_responder(self) -> Iterator[Noticed]:
        pid = self._responder_pid()
        if pid != self._responder.pid:
            self._responder = Process(pid, "the responder")
        yield from self._responder.look()
        beat_ns = self._heartbeats()["responder_ns"]
        age_s = (self._boot_ns() - beat_ns) / _NS if beat_ns else 0.0  # 0: it ended, and the service knows
        if age_s <= RESPONDER_SILENT_S:
            self._silent_looks = 0
            return
        self._wake_responder()
        self._silent_looks += 1
        if self._silent_looks == 2:  # at the first the device may have slept, and it beats again in a moment
            detail = f"the responder did not run for {age_s:.0f} s: stopped, frozen or starved; it was sent SIGCONT"
            yield Noticed(op="silence", detail=detail, target=pid)


def _is_off(setting: Path) -> bool:
    try:
        return setting.read_text().strip() == "0"
    except OSError:  # this kernel does not have it
        return False
