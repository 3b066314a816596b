# SPDX-License-Identifier: Apache-2.0
"""Which generation is in force: from the store into the kernel's tables, then to the analyzer.

Journey: store -> [generations] -> kernel tables, analyzer.

Everything here runs in the service's loop. A generation that was installed passes the shadow load
(`ble/shadow.py`) before it is swapped in, and the dead-man timer after it (`ble/standing.py`). The old one is in
force until the new one's tables are asked; a list that cannot be loaded changes nothing.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import msgspec

from mamplus_host.analyzer.matcher import in_user_space, places
from mamplus_host.ble import guard, standing
from mamplus_host.ble.record import NETWORK
from mamplus_host.ble.shadow import Shadow, Use
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.standing import Held, Known, Standing
from mamplus_host.ble.store import BleStore
from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config
from mamplus_host.enterprise import Enterprise, load_enterprise
from mamplus_host.generations import age
from mamplus_host.generations.aging import Aging
from mamplus_host.generations.deadman import DeadMan, Reach
from mamplus_host.generations.ledger import Ledger
from mamplus_host.generations.trying import Situation, try_out
from mamplus_host.kernel.tables import Tables
from mamplus_host.policy import policy
from mamplus_host.policy.policy import Policy
from mamplus_host.recent import Recent
from mamplus_host.verdicts import Severity

LOG = logging.getLogger("mamplus")
CLOCK_STEP_S = 60.0  # a clock set back by more than this may have ended entries too early
SAMPLE_EVERY_S = 300.0  # looks at what the scope's tasks use
_NS = 1_000_000_000


class Surroundings(Protocol):
    """What this device uses, and cannot do without."""

    def in_use(self) -> Iterable[Use]:
        """Yield what is in use at this moment."""

    def lifelines(self, enterprise: Enterprise | None, chosen: Policy) -> Iterable[Use]:
        """Yield what no list may newly block unasked."""


class Generations:
    """The generation in force, and the way of the next one."""

    def __init__(
        self, config: Config, *, clock: DeviceClock, tables: Tables, ledger: Ledger, recent: Recent,
        around: Surroundings, use: Callable[[Stack], object], reach: Callable[[], Reach | None],
    ) -> None:  # fmt: skip
        """`use` gives a generation whose tables are loaded to the analyzer."""
        self._config, self._clock, self._tables, self._ledger = config, clock, tables, ledger
        self._recent, self._around, self._use = recent, around, use
        self._store = BleStore(config.state, is_thorough=True)
        self._dead_man = DeadMan(clock=clock, ledger=ledger, reach=reach)
        self.aging = Aging(config, clock=clock, tables=tables, ledger=ledger)
        self.policy, self.policy_fault = policy.load(config.state)
        self._guards: tuple[guard.Guard, ...] = ()
        self.ble: Stack | None = None
        self.loaded: dict[str, Any] = {}  # what came of loading it, for `status`
        self._superseded_s = 0  # when the generation in force ceased to be the newest; 0: it is
        self._next_end_s = 0  # when the first enforced entry ends; 0: none ends
        self._loaded_at_s = 0.0  # by the time that entries end by
        self._sampled_ns = 0

    @property
    def number(self) -> int:
        """The generation in force; 0: none."""
        return self.ble.number if self.ble else 0

    @property
    def state(self) -> str:
        """What tells the generation in force from every other; "": none is."""
        return self.ble.state if self.ble else ""

    @property
    def newest(self) -> int:
        """The newest generation that is installed, in force or not; 0: none."""
        return next((record.number for record in self._store.records()), 0)

    @property
    def standing(self) -> Standing:
        """What is held, what was rolled back, and whether a dead-man timer runs."""
        return self._ledger.standing

    @property
    def known(self) -> int:
        """The newest generation of this device's enterprise that it holds, in force or not."""
        enterprise = load_enterprise(self._config.state)
        if enterprise is None:
            return 0
        records = self._store.records()
        return next((one.number for one in records[:1] if one.enterprise_id in ("", enterprise.enterprise_id)), 0)

    # --- what the service asks -------------------------------------------------------------------

    def begin(self) -> None:
        """Enforce what was in force before this start, then look at what has been installed since."""
        self.read_policy()
        self._align()
        self._take(is_begin=True)

    def reload(self) -> bool:
        """Take the newest installed generation, when nothing speaks against it; False: what is in force stays.

        Tables first, then the analyzer, then what is held. KernelRefused or BleInvalid: the old one stays.
        """
        return self._take()

    def _take(self, *, is_begin: bool = False) -> bool:
        try:
            return self._take_newest(is_begin=is_begin)
        finally:
            self._superseded_s = self._superseded()

    def _take_newest(self, *, is_begin: bool) -> bool:
        self.read_policy()
        newest = next(iter(self._store.records()), None)
        if newest is not None and newest.state == self.state:
            self._look_at_files()
        if newest is None or newest.state == self.state or (self.ble is not None and self._is_kept_out(newest)):
            return False
        ble = self._store.current() if self.ble is not None else self._anything()
        if self._store.note:
            LOG.warning("%s", self._store.note)
        if ble is None:
            return False
        if self.ble is not None and (ble.state == self.state or self._is_kept_out(ble) or self._holds(ble)):
            ble.close()
            return False
        self._swap(ble, was_fetched=is_begin and self._was_fetched(ble))
        return True

    def _superseded(self) -> int:
        """Return when the enterprise made what came after the generation in force; 0: nothing did."""
        after = 0
        for record in self._store.records():
            if record.state == self.state:
                return after
            after = record.created_s
        return 0

    def accept(self, number: int) -> bool:
        """Let in a generation that is held or was rolled back; NotPossible when `number` is neither."""
        standing.check_acceptable(self._ledger.standing, self.newest, number)
        self._ledger.keep(standing.accept(self._ledger.standing, number))
        self._ledger.note("accepted", generation=number)
        return self.reload()

    def load_again(self) -> None:
        """Build the tables of the generation in force anew: what is guarded, or what has ended, has changed."""
        if self.ble is not None:
            self._load(self.ble)

    def tick(self) -> None:
        """Do what time asks for: dated entries, dead-man timer, age, samples, alerts that wait."""
        self._align()
        self._look_at_dates()
        if self._dead_man.look():
            self._align()
        elif self._dead_man.acquits():
            self.reload()
        if self.number:
            self.aging.look(self.number, self.policy.age, superseded_s=self._superseded_s)
        now_ns = self._clock.boot_ns()
        if now_ns - self._sampled_ns >= SAMPLE_EVERY_S * _NS:
            self._sample(now_ns)
        self._ledger.hand_on()

    def read_policy(self) -> None:
        """Take the policy that is installed: guards, clock, effects of age."""
        self.policy, self.policy_fault = policy.load(self._config.state)
        self._clock.ahead_s = float(self.policy.clock_ahead_s)
        self.aging.stand(self.policy.standing)
        enterprise = load_enterprise(self._config.state)
        if enterprise is not None:
            self._ledger.keep(standing.of_enterprise(self._ledger.standing, enterprise.enterprise_id))
            self._guard(enterprise)

    def wants_proof(self) -> bool:
        """Whether it is time to ask the enterprise for a new proof of what its newest list is."""
        return bool(self.number) and self._clock.age_s() > age.refresh_after_s(self.policy.age)

    # --- shadow load -----------------------------------------------------------------------------

    def situation(self) -> Situation:
        """Return what this device uses, and what it would ask a new generation by."""
        self._sample(self._clock.boot_ns())
        lifelines = self._around.lifelines(load_enterprise(self._config.state), self.policy)
        return Situation(
            uses=tuple(self._recent), lifelines=tuple(lifelines), limit=self.policy.shadow_limit,
            suspect_as_block=self.aging.now.suspect_as_block, in_force=self.number,
        )  # fmt: skip

    def _holds(self, ble: Stack) -> bool:
        """Keep `ble` out when it would newly block too much of what is in use; say so once."""
        is_free = self.ble is None or ble.number < self.number or self._config.agent.mode == "monitor"
        if is_free or self._ledger.standing.is_let_in(ble, self.policy.forced_generation):
            return False
        limit = self.policy.shadow_limit
        tried = try_out(self.ble, ble, self.situation(), now_s=self._clock.list_s())
        if not tried.is_too_much(limit):
            return False
        self._hold(ble, tried, tried.why_held(limit))
        return True

    def _hold(self, ble: Stack, tried: Shadow, why: str) -> None:
        ledger, number = self._ledger, ble.number
        summary = f"generation {number} is held: {why}; generation {self.number} stays in force"
        way_out = (
            f"publish a newer generation, or force this one by the policy; on the device: mamplus ble accept {number}"
        )
        evidence = {"held": number, "would_block": msgspec.to_builtins(tried), "way_out": way_out}
        telling = ledger.telling("shadow-load", Severity.HIGH, summary, self.number, evidence)
        held = Held(number=number, state=ble.state, at_s=int(self._clock.wall_s()), why=why, alert_id=telling.id)
        ledger.keep(standing.hold(ledger.standing, held, telling))
        ledger.note("held", generation=number, in_force=self.number, why=why)
        ledger.hand_on()

    def _is_kept_out(self, one: Known) -> bool:
        return self._ledger.standing.keeps_out(one, self.policy.forced_generation)

    def _sample(self, now_ns: int) -> None:
        self._sampled_ns = now_ns
        self._recent.sample(self._around.in_use())

    def _anything(self) -> Stack | None:
        """Return the newest generation that nothing speaks against; while none is in force, any is better than none."""
        for record in self._store.records():
            if not self._is_kept_out(record) and (ble := self._store.open_state(record.state)) is not None:
                return ble
        return self._store.current()

    # --- swap, and back --------------------------------------------------------------------------

    def _was_fetched(self, ble: Stack) -> bool:
        """Whether a generation came over the network, and not on a stick."""
        return any(record.source == NETWORK for record in self._store.records() if record.state == ble.state)

    def _swap(self, ble: Stack, *, was_fetched: bool = False) -> None:
        ledger = self._ledger
        previous = None if self._config.agent.mode == "monitor" else self.ble  # monitor mode refuses nothing
        watch = self._dead_man.watch(ble, previous, self.policy.dead_man_s, was_fetched=was_fetched)
        ledger.keep(standing.before_swap(ledger.standing, watch))
        try:
            self._enforce(ble)
        except BaseException:
            ble.close()
            ledger.keep(standing.not_swapped(ledger.standing, ble.state))
            raise
        ledger.keep(standing.after_swap(ledger.standing, ble.number, ble.state))

    def _enforce(self, ble: Stack) -> None:
        self._load(ble, self.ble)
        self._replace(ble)
        LOG.info("enforcing generation %d, %d entries", ble.number, ble.count)

    def _replace(self, ble: Stack) -> None:
        previous, self.ble = self.ble, ble
        self._superseded_s = self._superseded()
        self._use(ble)
        if previous is not None:
            previous.close()

    def _look_at_files(self) -> None:
        """Let go of files that were merged meanwhile: the same entries are in others now."""
        ble = self._store.current()
        if ble is None or self.ble is None:
            return
        if ble.state == self.state and ble.changed_since(self.ble) != ():
            self._replace(ble)
        else:
            ble.close()

    def _align(self) -> None:
        """Enforce what the standing says is in force: after a start, a rollback, or a crash in the middle of one."""
        ledger = self._ledger
        wanted = ledger.standing.state
        if wanted in ("", self.state):
            return
        ble = self._store.open_state(wanted)
        if ble is not None:
            self._enforce(ble)
            return
        LOG.error("generation %d, which is to be in force, is not in the store any more", ledger.standing.number)
        ledger.keep(standing.after_swap(ledger.standing, self.number, self.state))

    def _load(self, ble: Stack, since: Stack | None = None) -> None:
        """Fill the tables; where `since` is what they were made from, with what has changed alone."""
        self._loaded_at_s = self._clock.list_s()
        parts = ble.changed_since(since) if since is not None else None
        fill = self._tables.load if parts is None else partial(self._tables.patch, changes=parts)
        report = fill(
            ble, now_s=self._loaded_at_s, guarded_names=self._guarded_names(),
            budget_bytes=self._budget_bytes(),
        )  # fmt: skip
        self.loaded = {
            "enforced": report.entries, "not_enforced": report.not_enforced - in_user_space(report.by_kind),
            "load_ms": round(report.took_ns / 1e6, 3), "table_bytes": report.table_bytes,
        }  # fmt: skip
        self.loaded |= places(report.by_kind, report.because)
        self._next_end_s = report.next_end_s

    def _budget_bytes(self) -> int:
        """Return the smaller of what this device and what its enterprise grants; 0: neither sets a bound."""
        granted = (self._config.limits.ble_table_bytes, self.policy.table_bytes)
        return min((most for most in granted if most), default=0)

    def _look_at_dates(self) -> None:
        """Let go of entries that have reached their date; take those back that a wrong clock had ended."""
        now_s = self._clock.list_s()
        if (self._next_end_s and now_s >= self._next_end_s) or now_s < self._loaded_at_s - CLOCK_STEP_S:
            self.load_again()

    # --- guard -----------------------------------------------------------------------------------

    def guards(self) -> tuple[guard.Guard, ...]:
        """Return the addresses that stay reachable, with their ports (0: every port)."""
        return self._guards

    def _guard(self, enterprise: Enterprise) -> None:
        """The way to the enterprise is never blocked, whatever the list says (principle 1); then what policy adds."""
        port, added = enterprise.endpoint.port, self.policy.never_block.guards()
        room = guard.MAX_GUARDS - len(guard.guards(enterprise.addresses, port))
        if len(added) > room:
            self.policy_fault = f"{len(added) - room} of never_block.addresses have no room beside the enterprise's own"
        self._guards = guard.guards(enterprise.addresses, port, added[:room])
        self._tables.set_guard(self._guards)

    def _guarded_names(self) -> tuple[str, ...]:
        enterprise = load_enterprise(self._config.state)
        own = guard.names(enterprise.endpoint.host) if enterprise is not None else ()
        return tuple(dict.fromkeys((*own, *self.policy.never_block.dns_names())))
