# SPDX-License-Identifier: Apache-2.0
"""How fast a feed becomes entries: a made list of a million values through gate and database, all processors.

The peer is the gate's hardest question, asked of pymispwarninglists itself: is this value on a warninglist?
Its own search walks every list for each value, so it is asked about a few hundred and compared by rate.
"""

import argparse
import hashlib
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from bench import report
from mamplus_enterprise.ble import imports
from mamplus_enterprise.ble.feeds.values import canonical_values
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.import_report import Report
from mamplus_enterprise.ble.judge import Wish
from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.ble.warninglists import Warninglists
from mamplus_enterprise.found import Wishes, found
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store

SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--asked", type=int, default=300, help="values that the peer is asked about")
    parser.add_argument("--rounds", type=int, default=3, help="of look-ups; the import runs twice: new, and again")
    arguments = parser.parse_args()
    _lookups(arguments.asked, arguments.rounds)
    with _enterprise() as (home, folder):
        _imports(home, folder / "feed.txt", arguments.values)


def values(count: int) -> Iterator[str]:
    """Yield addresses, names, hashes and networks, 10 : 5 : 4 : 1, some of them on warninglists or private."""
    chance = random.Random(SEED)
    for number in range(count):
        which = number % 20
        if which < 10:
            yield str(IPv4Address(chance.getrandbits(32)))
        elif which < 15:
            yield f"host{number}.{chance.choice(('evil', 'bad', 'phish'))}{number % 9973}.example"
        elif which < 19:
            yield hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
        else:
            yield f"{IPv4Address(chance.getrandbits(32) & 0xFFFFFF00)}/24"


def _lookups(asked: int, rounds: int) -> None:
    from pymispwarninglists import WarningLists  # type: ignore[attr-defined]  # exported without saying so

    peer, gate = WarningLists(slow_search=True), Gate(Never(), Warninglists())
    few, many = list(values(asked)), [pair[:2] for text in values(100 * asked) for pair in canonical_values(text, None)]
    rates: dict[str, list[float]] = {"gate": [], "pymispwarninglists": []}
    for _ in range(rounds):
        rates["gate"].append(_rate(len(many), lambda: [gate.ask(kind, value) for kind, value in many]))
        rates["pymispwarninglists"].append(_rate(asked, lambda: [peer.search(value) for value in few]))
    report.write("import_lookups", title="values asked", unit="1/s", values=rates, peer="pymispwarninglists")


def _rate(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)


def _imports(home: Home, feed: Path, count: int) -> None:
    feed.write_text("".join(f"{value}\n" for value in values(count)))
    store, figures = Store(home), dict[str, dict[str, float]]()
    for round_ in ("new", "again"):
        done = Report(feed="made", format="plain", layer="")
        order = imports.Order(path=feed, format="plain", feed="made", who="bench", wish=Wish(now_s=int(time.time())))
        imports.import_file(home, store, order, done, lambda _bytes: None)
        figures[round_] = {
            "seconds": done.seconds, "values/s": count / done.seconds, "added": done.added,
            "unchanged": done.unchanged, "dropped": done.dropped_count,
        }  # fmt: skip
    store.close()
    megabytes = {
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak MB a worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    report.table("import_speed", f"import of {count} values", figures | {"memory": megabytes})


@contextmanager
def _enterprise() -> Iterator[tuple[Home, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="mamplus-bench-"))
    try:
        yield found(folder / "enterprise", Wishes(name="bench", dev=True)), folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
