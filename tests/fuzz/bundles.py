# SPDX-License-Identifier: Apache-2.0
"""Mutated bundles, for the whole way from a carrier's bytes to what a device would install.

A company publishes five states of three layers and a policy; the device has the second. An attack takes the files
of one state, changes them (bytes, JSON values, whole files swapped between states, files dropped, cut off, made
longer, lists changed and named by their new hash, a tar whose headers are changed) and offers them.
Nothing may be accepted but a state that was published, whole; and nothing may be raised but MamplusError.
"""

import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamplus_host.ble.carrier import Carrier, Missing, check_name
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.trust import Held, Offered, Trust
from mamplus_host.errors import MamplusError
from tests.journey.repository import CREATED_S, DEVICE_ID, Repository, entries, tar, tarinfo

Files = dict[str, bytes]
INSTALLED = 1  # state that the device has
NOW_S = float(CREATED_S)
_JSON_VALUES = [0, 1, -1, 2**63, 1e308, "", "x", None, True, [], {}, "2999-01-01T00:00:00Z", "ble-feeds/list.mble"]


class Choices:
    """Decisions out of an input's bytes; when they are used up, zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, limit: int) -> int:
        taken = self._data[self._at : self._at + 4]
        self._at += 4
        return int.from_bytes(taken, "little") % limit if limit else 0

    def of(self, many: list[Any]) -> Any:
        return many[self.below(len(many))]

    @property
    def are_left(self) -> bool:
        return self._at < len(self._data)


@dataclass(frozen=True)
class State:
    """What the company had published at a moment."""

    files: Files  # with the carriers' timestamp
    layers: dict[Layer, tuple[int, int, bytes]]  # number, entries, root
    policy: bytes | None


class Company:
    """The states, and every list and delta that was ever genuine."""

    def __init__(self) -> None:
        self.repository = Repository()
        self.lists: set[bytes] = set()
        self.states: list[State] = []
        publish = self.repository.publish
        publish(entries(20))
        publish(entries(3, first=100), layer=Layer.EMERGENCY)
        self._note()
        publish(entries(6, first=200, valid_until=CREATED_S + 86_400), layer=Layer.FEEDS)
        self._policy(b'{"version": 1}')
        self._note()
        publish(entries(25), delta=True)
        self._note()
        publish(entries(4, first=100), layer=Layer.EMERGENCY, delta=True)
        self._policy(b'{"version": 2}')
        self._note()
        publish(entries(26), delta=True)
        self._note()

    def _policy(self, data: bytes) -> None:
        self.repository.name("policy", "policy/policy.json", data, {"version": data[-2] - 48})
        self.repository.sign_states("policy")
        self.policy = data

    def _note(self) -> None:
        made = {layer: Generation(data) for layer, data in self.repository.lists.items()}
        said = {layer: (one.number, one.count, one.root) for layer, one in made.items()}
        files = self.repository.carriers()
        self.states.append(State(files, said, getattr(self, "policy", None)))
        self.lists |= {data for name, data in files.items() if name.endswith(".mble")}
        self.lists |= {zlib.decompress(data) for name, data in files.items() if name.endswith(".delta")}

    def held(self) -> dict[Layer, Held]:
        layers = self.states[INSTALLED].layers
        return {layer: Held(*said, CREATED_S) for layer, said in layers.items()}


class Memory:
    """A source of files in memory."""

    is_network = False

    def __init__(self, files: Files) -> None:
        self._files, self.received = files, 0

    def read(self, name: str) -> Any:
        if check_name(name) not in self._files:
            raise Missing(name)
        self.received += len(self._files[name])
        yield self._files[name]


# --- mutations -----------------------------------------------------------------------------------


def _bytes(files: Files, chosen: Choices, _company: Company) -> None:
    name = chosen.of(sorted(files))
    data = bytearray(files[name])
    for _ in range(1 + chosen.below(4)):
        if data:
            data[chosen.below(len(data))] = chosen.below(256)
    files[name] = bytes(data)


def _cut_or_grown(files: Files, chosen: Choices, _company: Company) -> None:
    name = chosen.of(sorted(files))
    data = files[name]
    files[name] = data[: chosen.below(len(data) + 1)] if chosen.below(2) else data + bytes(chosen.below(2000))


def _swapped(files: Files, chosen: Choices, company: Company) -> None:
    """Take a file from another state, under its name or that of another file."""
    other = chosen.of(company.states).files
    name = chosen.of(sorted(other))
    files[name if chosen.below(3) else chosen.of(sorted(files))] = other[name]


def _dropped(files: Files, chosen: Choices, _company: Company) -> None:
    files.pop(chosen.of(sorted(files)))


def _value(files: Files, chosen: Choices, _company: Company) -> None:
    """Change one value of a JSON file, signatures untouched."""
    name = chosen.of(sorted(name for name in files if name.endswith(".json")) or sorted(files))
    try:
        root = json.loads(files[name])
    except ValueError:
        return
    at = root
    while isinstance(at, dict | list) and at:
        key = chosen.of(sorted(at)) if isinstance(at, dict) else chosen.below(len(at))
        if not isinstance(at[key], dict | list) or not at[key] or not chosen.below(6):
            if chosen.below(4):
                at[key] = chosen.of(_JSON_VALUES)
            else:
                del at[key]
            break
        at = at[key]
    files[name] = json.dumps(root).encode()


def _renamed(files: Files, chosen: Choices, _company: Company) -> None:
    """Change a target and name it by its new hash, as one would who cannot sign."""
    name = chosen.of(sorted(name for name in files if name.startswith("targets/")) or sorted(files))
    data = bytearray(files.pop(name))
    for _ in range(1 + chosen.below(3)):
        if data:
            data[chosen.below(len(data))] ^= 1 << chosen.below(8)
    folder, _, base = name.rpartition("/")
    files[f"{folder}/{hashlib.sha256(data).hexdigest()}.{base.partition('.')[2]}"] = bytes(data)


_MUTATIONS: list[Callable[[Files, Choices, Company], None]] = [
    _bytes, _bytes, _cut_or_grown, _swapped, _swapped, _dropped, _value, _value, _renamed,
]  # fmt: skip


# --- the attack ----------------------------------------------------------------------------------


class Range:
    """A company, an enrolled device in a folder of its own, and attacks on it."""

    def __init__(self, folder: Path) -> None:
        self.company = Company()
        self.folder = folder
        self._state = self.company.repository.enroll(folder / "state")
        self.accepted = self.refused = 0

    def attack(self, data: bytes) -> None:
        """Offer what `data` makes of a state; AssertionError when something is accepted that nobody published."""
        chosen = Choices(data)
        files = dict(chosen.of(self.company.states).files)
        is_tar, by_network = not chosen.below(4), not chosen.below(8)
        while files and chosen.are_left:
            chosen.of(_MUTATIONS)(files, chosen, self.company)
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            try:
                offered = self._offered(files, chosen, Path(work), is_tar=is_tar, by_network=by_network)
            except MamplusError:
                self.refused += 1
                return
            self.accepted += 1
            assert not by_network, "a carrier's timestamp was taken from the network"
            self._require_published(offered)

    def _offered(self, files: Files, chosen: Choices, work: Path, *, is_tar: bool, by_network: bool) -> Offered:
        held = self.company.held() if chosen.below(2) else {}
        trust = Trust(self._state, device_id=DEVICE_ID)
        if not is_tar:
            source = Memory(files)
            source.is_network = by_network
            return trust.verify(source, work / "1", held, now_s=NOW_S)
        path = work / "carrier"
        path.write_bytes(self._tar(files, chosen))
        with closing(Carrier(path)) as carrier:
            carrier.is_network = by_network
            return trust.verify(carrier, work / "1", held, now_s=NOW_S)

    @staticmethod
    def _tar(files: Files, chosen: Choices) -> bytes:
        data = bytearray(tar([tarinfo(name, files[name]) for name in sorted(files)]))
        for _ in range(chosen.below(3)):
            block = chosen.below(len(data) // 512) * 512
            data[block + chosen.below(512)] = chosen.below(256)
        return bytes(data)

    def _require_published(self, offered: Offered) -> None:
        said = {one.layer: (one.number, one.entries, one.root) for one in offered.layers}
        state = next(
            (state for state in self.company.states if state.layers == said and state.policy == offered.policy), None
        )
        assert state is not None, f"accepted what was never published: {said}, {offered.policy!r}"
        for one in offered.layers:
            for path in (*((one.full,) if one.full else ()), *one.deltas):
                assert path.read_bytes() in self.company.lists, f"accepted a file that was never published: {path.name}"


def open_range() -> "tuple[Range, Callable[[], None]]":
    """Return a range in memory where there is some, and what removes it."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mamplus-fuzz-", dir=shared if shared.is_dir() else None))
    return Range(folder), lambda: shutil.rmtree(folder, ignore_errors=True)
