# SPDX-License-Identifier: Apache-2.0
"""A device without a kernel: real store, ledger, outbox and alert log, hands on its clock and its uplink."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from mamplus_host.ble.encode import encode, encode_delta
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.record import NETWORK
from mamplus_host.ble.shadow import Use
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config, Paths
from mamplus_host.enterprise import Enterprise
from mamplus_host.errors import KernelRefused
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.generations.generations import Generations
from mamplus_host.generations.ledger import Ledger
from mamplus_host.kernel.tables import LoadReport, Tables
from mamplus_host.policy import policy
from mamplus_host.policy.policy import Policy
from mamplus_host.policy.standing import UNSAID, Standing
from mamplus_host.recent import Recent
from mamplus_host.verdicts import Escalation, Verdict
from tests.journey.offers import chain, whole

START_S = 1_800_000_000.0
BAD = (Kind.IP, "203.0.113.99")
PROGRAMS = [(Kind.SHA256, f"{n:064x}") for n in range(1, 20)]
_NS = 1_000_000_000


class Hands(DeviceClock):
    """The device's clock, moved by hand."""

    wall, boot_ns_now = START_S, 500 * _NS

    def wall_s(self) -> float:
        return self.wall

    def boot_ns(self) -> int:
        return self.boot_ns_now


class FakeTables:
    """What the kernel would hold."""

    def __init__(self) -> None:
        self.number = 0
        self.loads: list[int] = []
        self.patches: list[tuple[int, list[int]]] = []  # the generation, and those of the files that changed it
        self.standing = UNSAID
        self.postures: list[tuple[str, bool]] = []
        self.guards: set[tuple[str, int]] = set()
        self.names: tuple[str, ...] = ()
        self.is_full = False

    def load(
        self, stack: Stack, now_s: float, *, guarded_names: Iterable[str] = (), budget_bytes: int = 0
    ) -> LoadReport:
        if self.is_full:
            raise KernelRefused("no memory")
        entries = [entry for _layer, entry in stack.entries()]
        ends = [entry.valid_until for entry in entries if entry.valid_until > now_s]
        gone = sum(0 < entry.valid_until <= now_s for entry in entries)
        self.number, self.names, self.budget_bytes = stack.number, tuple(guarded_names), budget_bytes
        self.loads.append(stack.number)
        return LoadReport(entries=len(entries) - gone, expired=gone, took_ns=1, next_end_s=min(ends, default=0))

    def patch(
        self, stack: Stack, changes: Sequence[Generation], now_s: float, *, guarded_names: Iterable[str] = (),
        budget_bytes: int = 0,
    ) -> LoadReport:  # fmt: skip
        self.patches.append((stack.number, [change.number for change in changes]))
        return self.load(stack, now_s, guarded_names=guarded_names, budget_bytes=budget_bytes)

    def set_posture(self, config: Config, *, suspect_as_block: bool = False, standing: Standing = UNSAID) -> None:
        self.standing = standing
        self.postures.append((config.exec.on_deadline, suspect_as_block))

    def set_guard(self, guards: Iterable[tuple[Any, int]]) -> None:
        self.guards = {(str(address), port) for address, port in guards}


class Link:
    """The uplink, as the dead-man timer sees it."""

    def __init__(self) -> None:
        self.is_up, self.at_ns = True, 0

    def is_reachable(self) -> bool:
        return self.is_up

    def reached_ns(self) -> int:
        return self.at_ns


class PowerCut(Exception):
    """The power went."""


class Device:
    """One device; `start` begins its agent anew, as after a crash."""

    def __init__(self, state: Path) -> None:
        self.config = Config(paths=Paths(state=str(state)))
        self.state, self.store = state, BleStore(state)
        self.tables, self.link = FakeTables(), Link()
        self.uses: list[Use] = []
        self.vital: list[Use] = []
        self.boot = "boot 1"
        self.sent: list[Escalation] = []
        self.notes: list[dict[str, Any]] = []
        self.clock = Hands(state, boot_id=lambda: self.boot)
        self.belongs_to("enterprise")
        self.alerts = AlertLog(state / "alerts.sqlite")
        self.start()

    def belongs_to(self, enterprise_id: str, *addresses: str) -> None:
        member = Enterprise("https://mam.example:8443", "0" * 64, enterprise_id, "d" * 64, 0, addresses)
        (self.state / "identity").mkdir(exist_ok=True)
        (self.state / "identity" / "enterprise.json").write_bytes(msgspec.json.encode(member))
        self.enterprise_id = enterprise_id

    def start(self, *, reach: bool = True) -> None:
        """Start the agent; `reach`: its uplink is there already."""
        clock = Hands(self.state, boot_id=lambda: self.boot)
        clock.wall, clock.boot_ns_now = self.clock.wall, self.clock.boot_ns_now
        self.clock = clock
        ledger = Ledger(self.state, clock=clock, boot_id=self.boot, tell=self._tell, journal=self.notes.append)
        self.recent = Recent()
        self.generations = Generations(
            self.config, clock=clock, tables=cast(Tables, self.tables), ledger=ledger, recent=self.recent,
            around=self, use=lambda _ble: None, reach=lambda: self.link if reach else None,
        )  # fmt: skip
        self.generations.begin()

    def reboot(self, *, off_s: float = 0.0) -> None:
        self.boot += "+"
        self.clock.wall += off_s
        self.clock.boot_ns_now = 10 * _NS
        self.tables.number, self.link.at_ns = 0, 0
        self.start()

    def in_use(self) -> list[Use]:
        return self.uses

    def lifelines(self, _enterprise: Enterprise | None, _policy: Policy) -> list[Use]:
        return self.vital

    def install(
        self, number: int, *lines: tuple[Kind, str], verdict: Verdict = Verdict.BLOCK, until: int = 0,
        layer: Layer = Layer.ENTERPRISE, source: str = NETWORK,
    ) -> None:  # fmt: skip
        """Install a generation as the update helper does; nothing is loaded yet."""
        entries = [
            Entry(id=nth, kind=kind, value=canonical(kind, value), verdict=verdict, valid_until=until)
            for nth, (kind, value) in enumerate(lines, 1)
        ]
        data = encode(entries, generation=number, created_s=int(self.clock.wall))
        staged = self.state / "staged"
        staged.write_bytes(data)
        before = self.store.installed()
        self.store.install(
            self.store.prepare([whole(staged, layer)], before, source=source, enterprise_id=self.enterprise_id)
        )
        self.clock.confirm(self.clock.wall)

    def install_delta(self, number: int, *lines: tuple[Kind, str]) -> None:
        """Install a delta that adds `lines` to what is installed."""
        before = self.store.installed()
        assert before is not None
        entries = [
            Entry(id=1000 * number + nth, kind=kind, value=canonical(kind, value), verdict=Verdict.BLOCK)
            for nth, (kind, value) in enumerate(lines)
        ]
        with self.store.open(before) as stack:
            parts = stack.layers[0].parts
            data = encode_delta(entries, parts, generation=number, created_s=int(self.clock.wall))
        staged = self.state / "staged"
        staged.write_bytes(data)
        self.store.install(
            self.store.prepare([chain(staged)], before, source="network", enterprise_id=self.enterprise_id)
        )

    def take(self, number: int, *lines: tuple[Kind, str], layer: Layer = Layer.ENTERPRISE) -> None:
        """Install a generation and have the agent take it."""
        self.install(number, *lines, layer=layer)
        self.generations.reload()

    def set_policy(self, chosen: Policy) -> None:
        policy.keep(self.state, policy.encode(chosen))
        self.generations.read_policy()

    def run(self, seconds: float, *, every_s: float = 5.0) -> None:
        """Let time pass, with the agent's ticks."""
        end_ns = self.clock.boot_ns_now + int(seconds * _NS)
        while self.clock.boot_ns_now < end_ns:
            self.sleep(min(every_s, (end_ns - self.clock.boot_ns_now) / _NS))
            self.generations.tick()

    def sleep(self, seconds: float) -> None:
        """Let time pass without the agent: suspended, or dead."""
        self.clock.boot_ns_now += int(seconds * _NS)
        self.clock.wall += seconds

    def answered(self) -> None:
        """The enterprise answers on a connection made now."""
        self.link.is_up, self.link.at_ns = True, self.clock.boot_ns_now

    def _tell(self, escalation: Escalation) -> None:
        if escalation.id not in {one.id for one in self.sent}:
            self.sent.append(escalation)
            self.alerts.note(escalation)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with generation 1 in force, that has just reached its enterprise."""
    made = Device(tmp_path)
    made.take(1, BAD)
    made.answered()
    return made
