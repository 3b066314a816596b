# SPDX-License-Identifier: Apache-2.0
"""What actions refuse of the network: `state/network.json`, and the kernel's maps made to say the same.

Journey: actions/refuse, actions/isolate -> [refusals] -> kernel/refusals (hooks), netrules (second layer).

An entry is on the disk before anything is refused, and gone from it before anything is let through again; every other
step only makes the kernel follow the file, so each of them may be cut off and repeated. The next agent, also after a
restart of the device, begins with that: hooks that hold nothing yet are filled before they stand alone.

An app is kept by its cgroup's path: started anew, it has a cgroup of another number and stays refused.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from mamplus_host.clock import ListClock
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed, NotPossible
from mamplus_host.executor.network.netrules import rules
from mamplus_host.executor.network.secondlayer import SecondLayer
from mamplus_host.executor.processes.tasks import boot_id
from mamplus_host.files import write_whole
from mamplus_host.kernel import pins, refusals
from mamplus_host.kernel.refusals import Endpoint, Wanted

_NS = 1_000_000_000
_STEP_S = 2.0  # by which the second layer's dates may be off: a clock that is only slewed makes no rules anew
POLICY = "policy"
Kind = Literal["app", "host", "all", "isolate"]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is refused, because of one action."""

    kind: Kind
    what: str = ""  # app: the directory of its cgroup; host: its address
    since_s: float = 0.0  # seconds since the epoch, by the device's clock: for people
    ttl_s: int = 0  # 0: until it is undone
    spent_s: float = 0.0  # of that, at the moment which the next three say
    boot_id: str = ""
    boot_ns: int = 0  # CLOCK_BOOTTIME
    believed_s: float = 0.0  # ListClock.list_s
    by: str = ""  # who wanted it: POLICY, or nobody in particular
    lifeline: tuple[str, ...] = ()  # isolate: of refusals.LIFELINE
    is_loosened: bool = False  # isolate: the dead-man timer has let it go for a while


class _File(msgspec.Struct, frozen=True, kw_only=True):
    refusals: dict[str, Refusal] = {}  # by the id of the action
    overruled: int = -1  # version of the policy whose isolation the dead-man timer lifted


class Network:
    """The refusals of this device. One thread."""

    def __init__(self, config: Config, clock: ListClock) -> None:
        self._config, self._clock, self._path = config, clock, config.state / "network.json"
        self._boot_id = boot_id()
        self.was_damaged = False
        found = self._read()
        self._kept = found.refusals
        self.overruled = found.overruled  # see _File; on the disk with the `drop` of what was lifted, in one write
        self.second = SecondLayer(config)
        self.lifeline: tuple[str, ...] = tuple(refusals.LIFELINE)  # of an isolation that names none: the policy's
        self._said: tuple[Wanted, list[Endpoint], float] | None = None  # to the second layer
        self._ahead_s = 0.0  # of the wall clock before CLOCK_BOOTTIME, as the second layer's dates have it

    # --- what is refused ---------------------------------------------------------------------

    def get(self, action_id: str) -> Refusal | None:
        return self._kept.get(action_id)

    def all(self) -> dict[str, Refusal]:
        return dict(self._kept)

    def isolation(self) -> tuple[str, Refusal] | None:
        """Return the newest isolation with the id of its action, None when the device is not isolated."""
        found = [(one, refusal) for one, refusal in self._kept.items() if refusal.kind == "isolate"]
        return found[-1] if found else None

    def put(self, action_id: str, refusal: Refusal) -> None:
        """Note what an action refuses, for good; ActionFailed when there is no room. Nothing is refused yet."""
        if action_id in self._kept:
            return  # a `do` that was cut off: its time began then
        if sum(one.kind in ("app", "host") for one in self._kept.values()) >= refusals.MOST:
            raise ActionFailed(f"{refusals.MOST} apps and hosts are refused already; undo some of them first")
        now = self._stamped(refusal, 0.0)
        self._write({**self._kept, action_id: msgspec.structs.replace(now, since_s=self._clock.wall_s())})

    def drop(self, action_id: str) -> None:
        """Forget what an action refused, for good. It is refused until `enforce`."""
        if action_id in self._kept:
            self._write({one: refusal for one, refusal in self._kept.items() if one != action_id})

    def loosen(self, action_id: str, is_loosened: bool) -> None:
        """Let an isolation go for a while, or take hold again."""
        refusal = self._kept[action_id]
        if refusal.is_loosened != is_loosened:
            self._write({**self._kept, action_id: msgspec.structs.replace(refusal, is_loosened=is_loosened)})
        self.enforce()

    def left_s(self, refusal: Refusal) -> float | None:
        """Return for how long it holds yet, 0: its time is over; None: until it is undone."""
        return max(0.0, refusal.ttl_s - self._elapsed_s(refusal)) if refusal.ttl_s else None

    # --- the kernel --------------------------------------------------------------------------

    def enforce(self) -> bool:
        """Make every set of hooks refuse what is noted; True when one did not before. KernelRefused."""
        wanted = self.wanted()
        found = [refusals.enforce(directory, wanted) for directory in self._directories()]
        self._tell(wanted)
        return any(found)

    def _tell(self, wanted: Wanted) -> None:
        """Have the second layer say the same, when that is something else than before, or its dates are wrong."""
        is_watched = self._config.agent.mode == "monitor"  # rules know no such mode: there are none then
        boot_ns = self._clock.boot_ns()
        ahead_s = self._clock.wall_s() - boot_ns / _NS
        if abs(ahead_s - self._ahead_s) > _STEP_S:
            self._ahead_s = ahead_s
        said = (Wanted() if is_watched else wanted, self.guarded(), self._ahead_s)
        if said != self._said:
            self.second.follow(rules(*said[:2], boot_ns=boot_ns, wall_s=boot_ns / _NS + self._ahead_s))
            self._said = said

    def holds(self, refusal: Refusal) -> bool | None:
        """Whether the hooks refuse what `refusal` says; None where there are no hooks to ask."""
        now_ns = self._clock.boot_ns()
        found = [_refuses(refusals.read(directory), refusal, now_ns) for directory in self._directories()]
        return all(found) if found else None

    def is_wanted(self, refusal: Refusal) -> bool:
        """Whether some action refuses the same thing now."""
        return any((one.kind, one.what) == (refusal.kind, refusal.what) for one in self._kept.values())

    def wanted(self) -> Wanted:
        """Return what the kernel is to refuse, by the file and the clock."""
        apps: dict[int, int] = {}
        hosts: dict[str, int] = {}
        for refusal in self._kept.values():
            until_ns = self._until_ns(refusal)
            if refusal.kind == "app" and (number := _cgroup_id(refusal.what)):
                apps[number] = max(until_ns, apps.get(number, 0))
            elif refusal.kind == "host":
                hosts[refusal.what] = max(until_ns, hosts.get(refusal.what, 0))
        isolations = [one for one in self._kept.values() if one.kind == "isolate" and not one.is_loosened]
        return Wanted(
            isolated_until_ns=max(map(self._until_ns, isolations), default=0),
            alone_until_ns=max((self._until_ns(one) for one in self._kept.values() if one.kind == "all"), default=0),
            lifeline=isolations[-1].lifeline if isolations else (),
            apps=apps, hosts=hosts,
        )  # fmt: skip

    def guarded(self) -> list[Endpoint]:
        """Return what no hook refuses: the enterprise first of all."""
        directories = self._directories()
        return refusals.guarded(directories[0]) if directories else []

    def tick(self) -> bool:
        """Follow apps that were started anew, and put back what somebody changed; True when something was."""
        self.second.poke()
        return self.enforce()

    # --- parts -------------------------------------------------------------------------------

    def _directories(self) -> list[Path]:
        return [one for one in pins.directories(self._config) if refusals.are_there(one)]

    def _until_ns(self, refusal: Refusal) -> int:
        """Return when it ends, CLOCK_BOOTTIME; whoever asks twice gets the same."""
        if not refusal.ttl_s:
            return refusals.UNTIL_UNDONE_NS
        return refusal.boot_ns + round((refusal.ttl_s - refusal.spent_s) * _NS)

    def _elapsed_s(self, refusal: Refusal) -> float:
        running_s = self._clock.boot_ns() / _NS
        if refusal.boot_id == self._boot_id:
            return refusal.spent_s + max(0.0, running_s - refusal.boot_ns / _NS)
        return refusal.spent_s + max(running_s, self._clock.list_s() - refusal.believed_s)

    def _stamped(self, refusal: Refusal, spent_s: float) -> Refusal:
        clock = self._clock
        return msgspec.structs.replace(
            refusal, spent_s=spent_s, boot_id=self._boot_id, boot_ns=clock.boot_ns(), believed_s=clock.list_s()
        )

    def _read(self) -> _File:
        """Return what is kept; of an earlier boot measured from now on. A damaged file is put aside."""
        try:
            kept = msgspec.convert(json.loads(self._path.read_bytes()), _File)
        except FileNotFoundError:
            return _File()
        except (msgspec.ValidationError, ValueError):
            self._path.replace(self._path.with_name(self._path.name + ".damaged"))
            self.was_damaged = True
            return _File()
        now = {
            one: refusal if refusal.boot_id == self._boot_id else self._stamped(refusal, self._elapsed_s(refusal))
            for one, refusal in kept.refusals.items()
        }
        return msgspec.structs.replace(kept, refusals=now)

    def _write(self, kept: dict[str, Refusal]) -> None:
        try:
            content = json.dumps(msgspec.to_builtins(_File(refusals=kept, overruled=self.overruled)), ensure_ascii=True)
            write_whole(self._path, content.encode())
        except (OSError, NotPossible) as error:
            raise ActionFailed(f"cannot note what is refused in {str(self._path)!r}: {error}") from None
        self._kept = kept


def _refuses(there: Wanted, refusal: Refusal, now_ns: int) -> bool:
    if refusal.kind == "app":
        number = _cgroup_id(refusal.what)
        return not number or there.apps.get(number, 0) > now_ns  # without a cgroup there is nobody to refuse
    if refusal.kind == "host":
        return there.hosts.get(refusal.what, 0) > now_ns
    return (there.alone_until_ns if refusal.kind == "all" else there.isolated_until_ns) > now_ns


def _cgroup_id(directory: str) -> int:
    """Return the kernel's number of a cgroup, 0 when there is none."""
    try:
        return Path(directory).stat().st_ino
    except OSError:
        return 0


def words(refused: Iterable[Refusal]) -> list[str]:
    """Return what is refused, for people."""
    names = {"app": "app {}", "host": "host {}", "all": "all but the enterprise", "isolate": "all but the lifeline"}
    return [names[one.kind].format(one.what) for one in refused]
