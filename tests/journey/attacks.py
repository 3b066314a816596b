# SPDX-License-Identifier: Apache-2.0
"""What the tests of attacks share: a device that takes what it is given, and a claim that nothing changed."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.ble.carrier import Directory, Source, check_name
from mamplus_host.ble.carrier import Missing as MissingFile
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.trust import Held, Offered, Trust
from mamplus_host.ble.update import FetchResult
from mamplus_host.ble.update_helper import update_here
from mamplus_host.errors import MamplusError
from tests.journey.repository import CREATED_S, DEVICE_ID, Repository, entries
from tests.journey.served import Answering, files, served

NOW_S = 1_700_000_000.0
DAY_S = 86_400
SOON = CREATED_S + DAY_S  # a feed's entries must end


class Files:
    """A source made of bytes: what an attacker would show."""

    def __init__(self, content: Mapping[str, bytes], *, is_network: bool = False) -> None:
        self._content, self.is_network, self.received = content, is_network, 0
        self.asked: list[str] = []

    def read(self, name: str) -> Iterator[bytes]:
        self.asked.append(check_name(name))
        if name not in self._content:
            raise MissingFile(name)
        self.received += len(self._content[name])
        yield self._content[name]


class Device:
    """An enrolled device's state directory, and what can be done to it."""

    def __init__(self, state: Path, repository: Repository) -> None:
        self.state = repository.enroll(state)
        self._tries = 0

    def load(self, repository: Repository, content: Mapping[str, bytes] | None = None) -> FetchResult:
        """Update from a stick that holds the repository's files, or `content`."""
        self._tries += 1
        stick = self.state.parent / f"{self.state.name}-stick-{self._tries}"
        return update_here(self.state, str(repository.write(stick, dict(content or repository.files))))

    def fetch(self, content: Mapping[str, bytes] | Answering) -> FetchResult:
        """Update over the network from a server with these files."""
        answer = content if callable(content) else files(dict(content))
        with served(answer) as server:
            Repository.belong(self.state, server.url, "")
            return update_here(self.state, None)

    def verify(self, source: Source, held: Mapping[Layer, Held] | None = None, *, now_s: float = NOW_S) -> Offered:
        """Ask trust alone, remembering nothing."""
        self._tries += 1
        work = self.state / f"work-{self._tries}"
        return Trust(self.state, device_id=DEVICE_ID).verify(source, work, held or {}, now_s=now_s)

    def numbers(self) -> dict[str, int]:
        """Return the number of each installed layer."""
        record = BleStore(self.state).installed()
        return {layer.layer: layer.number for layer in record.layers} if record else {}

    def says(self, layer: Layer) -> list[Entry]:
        """Return what stands in a layer, by id."""
        stack = BleStore(self.state).current()
        assert stack is not None
        with stack:
            return sorted((entry for one, entry in stack.entries() if one is layer), key=lambda entry: entry.id)

    def belief(self) -> bytes:
        path = self.state / "trust" / "metadata.json"
        return path.read_bytes() if path.exists() else b""

    def refuses(self, kind: type[MamplusError], act: Callable[[], object], match: str | None = None) -> None:
        """Assert that `act` raises exactly `kind`, and that belief and list are as before."""
        before = self.belief(), self.numbers()
        with pytest.raises(kind, match=match) as caught:
            act()
        assert type(caught.value) is kind
        assert (self.belief(), self.numbers()) == before
        assert not (self.state / "ble" / "work").exists()


def stick(content: Mapping[str, bytes], folder: Path) -> Directory:
    """Return `content` as a directory source."""
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Directory(folder)


def feed(count: int, *, first: int = 100, **changes: Any) -> list[Entry]:
    """Return entries as the layer of feeds may have them."""
    return entries(count, first=first, **{"valid_until": SOON, **changes})


def published(count: int = 10, *, feed_first: int = 100, **keys: Any) -> Repository:
    """Return a repository that has published a list in each layer, `count` entries in the enterprise's."""
    made = Repository(**keys)
    made.publish(entries(count))
    made.publish(entries(3, first=900), layer=Layer.EMERGENCY)
    return made.publish(feed(20, first=feed_first), layer=Layer.FEEDS)
