# SPDX-License-Identifier: Apache-2.0
"""Would a device refuse this value? Asked of the published list and of the working one, by the device's own code.

Of the working list only the entries that could matter are read, made into a small list and
asked by `Verify(BLE)`: what is said here is what a device would say.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author, repository
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import EntryRow
from mamplus_host.analyzer.verify import Answer, verify_text
from mamplus_host.ble.encode import encode
from mamplus_host.ble.endpoint import Endpoint, endpoint, endpoint_value
from mamplus_host.ble.entry import Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack

_NETWORK = (Kind.IP, Kind.CIDR, Kind.PORT)
_EXACT = (Kind.SHA256, Kind.TLS)


def working(session: Session, kind: Kind, text: str) -> Answer:
    """Return what the working list says, as generation 1 (0: nothing of it could matter).

    ConfigInvalid when `text` is none of `kind`.
    """
    value, now_s = canonical(kind, text), time.time()
    layers = []
    for layer in Layer:
        in_force = (EntryRow.layer == int(layer)) & EntryRow.removed_at.is_(None)
        rows = session.scalars(select(EntryRow).where(in_force, _may_matter(kind, value)))
        entries = [author.entry_of(row) for row in rows]
        if entries:
            data = encode(entries, generation=1, created_s=int(now_s))
            layers.append(LayerFiles(layer, Generation(data)))
    with Stack(layers) as stack:
        return verify_text(stack, kind, text, now_s=now_s)


def published(home: Home, kind: Kind, text: str) -> Answer:
    """Return what the published list says."""
    with ExitStack() as closing:
        layers = []
        for layer, state in repository.layers(home).items():
            if path := state.file(home.targets, layer):
                layers.append(LayerFiles(layer, closing.enter_context(Generation.open(path))))
        return verify_text(Stack(layers), kind, text, now_s=time.time())


def _may_matter(kind: Kind, value: str) -> ColumnElement[bool]:
    """The claim that a row could say something about `value`; may be true of too many, never of too few."""
    if kind is Kind.DOMAIN:
        labels = value.split(".")
        names = [".".join(labels[start:]) for start in range(len(labels))]
        return (EntryRow.kind == int(kind)) & EntryRow.value.in_([*names, f"={value}"])
    if kind in _NETWORK:
        return or_(*_network_rows(endpoint(kind, value)))
    if kind in _EXACT:
        return (EntryRow.kind == int(kind)) & (EntryRow.value == value)
    return EntryRow.kind == int(kind)


def _network_rows(at: Endpoint) -> Iterator[ColumnElement[bool]]:
    yield EntryRow.kind == int(Kind.PORT)
    for kind, where in _around(at):
        opening = f"[{where}]:" if ":" in where else f"{where}:"
        qualified = (opening <= EntryRow.value) & (EntryRow.value < opening[:-1] + ";")  # ";" follows ":"
        yield (EntryRow.kind == int(kind)) & ((EntryRow.value == where) | qualified)


def _around(at: Endpoint) -> Iterator[tuple[Kind, str]]:
    """Yield kind and value, without ports, of the host and of each network around it."""
    is_v4 = at.addr[:12] == bytes(10) + b"\xff\xff" and at.prefix >= 96
    number = int.from_bytes(at.addr, "big")
    for prefix in range(at.prefix, 95 if is_v4 else -1, -1):
        network = ((number >> (128 - prefix)) << (128 - prefix)).to_bytes(16, "big")
        _, where = endpoint_value(Endpoint(network, prefix))
        yield Kind.CIDR, where
        if prefix == 128:
            yield Kind.IP, where.partition("/")[0]
