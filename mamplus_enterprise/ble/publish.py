# SPDX-License-Identifier: Apache-2.0
"""Make the stored entries the next generation, signed and served.

Journey: author, answer -> [publish] -> repository.

The database is the truth, the repository is made from it. A generation's number is greater
than any that was ever served; its row is written after the repository, so a crash between
them leaves a served generation without a row, which the next publisher adds.
"""

import time
from dataclasses import dataclass

from sqlalchemy import func, select

from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.author import compiled
from mamplus_enterprise.ble.keys import Signers
from mamplus_enterprise.ble.repository import Published
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked
from mamplus_enterprise.storage.schema import GenerationRow
from mamplus_enterprise.storage.store import Store, note
from mamplus_host.ble.encode import encode


@dataclass(frozen=True, slots=True)
class Request:
    """Who publishes, why, and whether a list that lost most of its entries is meant so."""

    who: str
    why: str
    allow_shrink: bool = False


def publish(home: Home, store: Store, signers: Signers, request: Request) -> Published:
    """Publish what is stored; PublishFailed when the list would be emptied or halved unasked."""
    with locked(home.publish_lock):
        before = repository.current(home)
        now_s = _moment(store)
        with store.reading() as session:
            entries = compiled(session, now_s)
            newest = session.scalar(select(func.max(GenerationRow.number))) or 0
            largest = session.scalar(select(func.max(GenerationRow.entries))) or 0
        _check_shrinking(len(entries), before.entries, request)
        offered = Published(max(before.generation, newest) + 1, len(entries))
        # A device may skip the generation that was allowed to shrink: the flag stays while any earlier one was larger.
        may_shrink = len(entries) == 0 or 2 * len(entries) < max(largest, before.entries)
        data = encode(entries, generation=offered.generation, created_s=int(now_s), may_shrink=may_shrink)
        repository.add(home, signers, data, offered)
        _record(store, before, offered, now_s, request)
    return offered


def _moment(store: Store) -> float:
    """Return a time such that every change made up to it can be read now."""
    with store.writing() as session:
        session.execute(select(1))  # waits for the write lock: changes in flight are done
        return time.time()


def _check_shrinking(entries: int, before: int, request: Request) -> None:
    if request.allow_shrink or 2 * entries >= before:
        return
    raise PublishFailed(
        f"the list would have {entries} entries, the published one has {before}; devices refuse an emptied or halved"
        " list, so say `ble publish --allow-shrink` if it is meant"
    )


def _record(store: Store, before: Published, offered: Published, now_s: float, request: Request) -> None:
    with store.writing() as session:
        if session.get(GenerationRow, before.generation) is None:
            lost = "its publisher died before it could say why"
            session.add(GenerationRow(number=before.generation, created_at=now_s, entries=before.entries, why=lost))
        row = GenerationRow(number=offered.generation, created_at=now_s, entries=offered.entries, why=request.why)
        session.add(row)
        note(session, who=request.who, what="published", subject=f"generation {offered.generation}", detail=request.why)
