# SPDX-License-Identifier: Apache-2.0
"""What a list costs in the kernel: our tables beside ipset, nft, the hash map and the LPM trie.

At each size every subject loads the same addresses, alternating: time until they are in force,
kernel memory, 1,000 more, and what a lookup costs that finds or misses. Then networks of twenty
prefix lengths, in ours and in the trie; and from the file to enforcing in a process of its own.
"""

import argparse
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import report
from bench import tables_lists as lists
from bench.rig import rig
from bench.tables_peers import CHANGES, Bounds, Hands, Subject, Taken, TooSlow, ipset, nft, nft_interval, too_large
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.config import Agent, Config, Paths
from mamplus_host.kernel import pins
from mamplus_host.kernel.objects import Kernel

PEER = "hash map"
NETWORKS_MAX = 1_000_000
GIVEN_BACK_KB = 4096  # more free memory than half a second ago: something is still given back
SPENT_S = 30  # a subject is repeated until it has loaded for so long
METRICS = {  # of Taken: title, unit, factor
    "load_ms": ("list in force", "ms", 1.0),
    "patch_ms": (f"{CHANGES} more in force", "ms", 1.0),
    "hit_ns": ("a lookup that finds", "ns", 1.0),
    "miss_ns": ("a lookup that misses", "ns", 1.0),
    "nothing_ns": ("the same program without a lookup", "ns", 1.0),
    "memory_bytes": ("kernel memory", "MB", 1e-6),
}
Series = dict[str, list[Taken]]


class Bench:
    """Attached probes, whose maps ours are, and the hands for all others."""

    def __init__(self, directory: Path, kernel: Kernel, pinned: Path, repeat: int, bounds: Bounds) -> None:
        self._directory, self._tables, self._pinned, self._repeat = directory, kernel.tables, pinned, repeat
        self.bounds, self._hands = bounds, Hands(directory, pinned, bounds)

    def subjects(self) -> dict[str, Subject]:
        return {
            "ours": self.ours,
            PEER: partial(self._map, "hash"),
            "hash map, not preallocated": partial(self._map, "hash_no_prealloc"),
            "LPM trie": partial(self._map, "trie"),
            "ipset": partial(ipset, self._directory, self.bounds),
            "nft set": partial(nft, self._directory, self.bounds),
            "nft interval set": partial(nft_interval, self._directory, self.bounds),
        }

    def ours(self, count: int) -> Taken:
        with Generation.open(self._list(count)) as base:
            loaded = self._tables.load(base, time.time())
            asked = self._hands("ours", count, self._repeat)
            delta_path = self._directory / "delta"
            lists.write_delta(delta_path, base, min(CHANGES, count))
            with Generation.open(delta_path) as delta:
                stack = Stack([LayerFiles(Layer.FEEDS, base, (delta,))])
                patched = self._tables.patch(stack, [delta], time.time())
        if (loaded.entries, patched.is_patch, patched.entries) != (count, True, count + min(CHANGES, count)):
            raise SystemExit(f"ours has {loaded.entries} entries, then {patched.entries}")
        return Taken(
            loaded.took_ns / 1e6,
            loaded.table_bytes,
            patched.took_ns / 1e6,
            asked.nothing_ns,
            asked.hit_ns,
            asked.miss_ns,
        )

    def networks(self, count: int, version: str) -> dict[str, Taken]:
        """Networks of twenty lengths, in ours and in the trie. `version`: "" for IPv4, "6" for IPv6."""
        path, size = self._directory / "networks", 16 if version else 4
        which = lists.networks6(count) if version else lists.networks(count)
        lists.write_networks(path, which, is_six=bool(version))
        with Generation.open(path) as generation:
            loaded = self._tables.load(generation, time.time())
        ours = self._hands(f"networks{version}", len(which), self._repeat)
        given = b"".join(struct.pack("=I", prefix) + address.to_bytes(size, "big") for address, prefix in which)
        trie = self._hands(f"trie_networks{version}", len(which), self._repeat, given=given)
        return {
            "ours": Taken(loaded.took_ns / 1e6, loaded.table_bytes, 0, ours.nothing_ns, ours.hit_ns, ours.miss_ns),
            "LPM trie": trie,
        }

    def process(self, path: Path, check: bool) -> tuple[float, float]:
        """Return milliseconds from the start of a process until the list is in force, and its peak in MB."""
        module = [sys.executable, "-m", "bench.tables_process"]
        command = [*module, str(path), str(self._pinned), "check" if check else "trust"]
        begin_ns = time.monotonic_ns()
        said = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1]).stdout.split()
        return (int(said[0]) - begin_ns) / 1e6, int(said[2]) / 1e6

    def _map(self, kind: str, count: int) -> Taken:
        return self._hands(kind, count, self._repeat, min(CHANGES, count))

    def _list(self, count: int) -> Path:
        path = self._directory / f"addresses-{count}"
        if not path.exists():
            lists.write_addresses(path, count)
        return path


def await_memory() -> None:
    """Wait until the kernel has given back what the last subject held: one of its threads does that meanwhile."""
    free_kb, before_kb = _free_kb(), 0
    while free_kb - before_kb > GIVEN_BACK_KB:
        time.sleep(0.5)
        free_kb, before_kb = _free_kb(), free_kb


def _free_kb() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/meminfo").open() if line.startswith("MemFree:"))


def measure(
    bench: Bench, count: int, rounds: int, wanted: Sequence[str], last: dict[str, tuple[int, list[Taken]]]
) -> tuple[Series, dict[str, str]]:
    """Load each subject once in every round, each round beginning with another one; slow ones in fewer rounds.

    Returns what they took, and why others were left out.
    """
    values: Series = {}
    subjects = {name: subject for name, subject in bench.subjects().items() if not wanted or name in wanted}
    large = {name: too_large(count, last.get(name), bench.bounds) for name in subjects}
    left_out = {name: reason for name, reason in large.items() if reason}
    names = list(subjects)
    for number in report.progress(range(rounds), f"tables {count}", rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent_s = sum(taken.load_ms + taken.patch_ms for taken in values.get(name, ())) / 1000
            if name in left_out or spent_s >= SPENT_S:
                continue
            await_memory()
            try:
                values.setdefault(name, []).append(subjects[name](count))
            except TooSlow as error:
                left_out[name] = str(error)
    return {name: taken for name, taken in values.items() if taken}, left_out


def keep(count: int, series: Series, left_out: dict[str, str]) -> None:
    for metric, (title, unit, factor) in METRICS.items():
        values = {name: [getattr(one, metric) * factor for one in taken] for name, taken in series.items()}
        values = {name: found for name, found in values.items() if any(found)}
        if len(values) > 1:
            peer = PEER if PEER in values else list(values)[-1]
            report.write(
                f"tables_{metric}_{count}", title=f"{title}, {count} addresses", unit=unit, values=values, peer=peer,
                left_out=left_out,
            )  # fmt: skip


@contextmanager
def attached() -> Iterator[tuple[Path, Kernel, Path]]:
    """Yield a directory, our probes on a cgroup of our own, and where their maps are pinned."""
    with rig() as made:
        paths = Paths(str(made.directory / "state"), str(made.directory / "run"), made.bpffs)
        config = Config(paths=paths, agent=Agent(mode="enforce"))
        kernel = Kernel.attach(config, made.cgroup)
        try:
            yield made.directory, kernel, pins.directory_for(config, made.cgroup)
        finally:
            kernel.close()
            Kernel.detach(config)


def whole_process(bench: Bench, directory: Path, count: int, rounds: int) -> None:
    """Time a process that starts, opens a list of hashes, checks it, and has it enforced."""
    path = directory / "hashes"
    lists.write_hashes(path, count)
    runs = {
        name: [bench.process(path, check) for _ in range(rounds)]
        for name, check in (("checked first", True), ("as the store gives it", False))
    }
    for metric, unit in ((0, "ms"), (1, "MB")):
        values = {name: [run[metric] for run in found] for name, found in runs.items()}
        title = f"process, file to enforcing, {count} hashes" if metric == 0 else f"its peak, {count} hashes"
        report.write(f"tables_process_{unit}_{count}", title=title, unit=unit, values=values, peer="checked first")
    path.unlink()


def compare_networks(bench: Bench, count: int, rounds: int, version: str) -> None:
    networks = [bench.networks(count, version) for _ in range(rounds)]
    for metric, what, unit in (("miss_ns", "a lookup among", "ns"), ("load_ms", "in force:", "ms")):
        values = {name: [getattr(one[name], metric) for one in networks] for name in networks[0]}
        title = f"{what} {count} IPv{version or 4} networks of {len(lists.LENGTHS)} lengths"
        name = f"tables_networks{version}_{metric}_{count}"
        report.write(name, title=title, unit=unit, values=values, peer="LPM trie")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=1_000_000, help="lookups a measurement")
    parser.add_argument("--subjects", nargs="+", default=[], help="as they are printed; default: all")
    parser.add_argument("--patience", type=float, default=120, metavar="S", help="for a peer's load")
    parser.add_argument("--memory", type=float, default=6, metavar="GB", help="for a peer's program")
    arguments = parser.parse_args()
    bounds = Bounds(arguments.patience, arguments.memory * 1e9)
    last: dict[str, tuple[int, list[Taken]]] = {}
    with attached() as (directory, kernel, pinned):
        bench = Bench(directory, kernel, pinned, arguments.repeat, bounds)
        for count in arguments.sizes:
            series, left_out = measure(bench, count, arguments.rounds, arguments.subjects, last)
            last |= {name: (count, taken) for name, taken in series.items()}
            keep(count, series, left_out)
            if count <= NETWORKS_MAX:
                for version in ("", "6"):
                    compare_networks(bench, count, arguments.rounds, version)
            whole_process(bench, directory, count, min(arguments.rounds, 5))


if __name__ == "__main__":
    main()
