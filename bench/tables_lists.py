# SPDX-License-Identifier: Apache-2.0
"""The lists of the table benchmark: as files of a generation, and as what the peers read.

Columns are written as a whole: no `Entry` is made, so that ten million take seconds. Addresses
are those of `lookup.h`, spread evenly over all; hashes are random.
"""

import mmap
import os
import random
from array import array
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from mamplus_host.ble import native
from mamplus_host.ble.encode import About, Columns, assemble
from mamplus_host.ble.format import DELTA, GROUP, NET_KEY, ROOT_AT, Generation, Section
from mamplus_host.verdicts import Verdict

LENGTHS = range(13, 33)  # prefix lengths of networks: as many as a typical feed has
LENGTHS6 = (*range(28, 37), 40, 44, 46, 47, 48, 52, 56, 60, 64, 96, 112)  # as many
TEXT_CHUNK = 100_000
_GROUPS = GROUP.pack(Verdict.BLOCK, 3, 50, 0, 0, 0, 0)
_STRINGS = b"\0\0"


def addresses(count: int, offset: int = 0) -> Iterator[int]:
    return ((index << 32) // count + 1 + offset for index in range(count))


def write_addresses(path: Path, count: int) -> None:
    """Write a list of `count` IPv4 addresses."""
    _write(path, Section.IP4, _big_endian(addresses(count)))


def write_hashes(path: Path, count: int) -> None:
    """Write a list of `count` SHA-256, which rise as they must."""
    step = (1 << 64) // count
    keys = bytearray(os.urandom(32 * count))
    view = memoryview(keys)
    for index in range(count):
        view[32 * index : 32 * index + 8] = (index * step).to_bytes(8, "big")
    _write(path, Section.SHA256, bytes(keys))


def networks(count: int) -> list[tuple[int, int]]:
    """Return some `count` networks as (address, prefix length), of all `LENGTHS`, sorted."""
    draw = random.Random(count)
    found = set[tuple[int, int]]()
    for index in range(count):
        prefix = LENGTHS[index % len(LENGTHS)]
        found.add((draw.getrandbits(prefix) << 32 - prefix, prefix))
    return sorted(found)


def networks6(count: int) -> list[tuple[int, int]]:
    """The same of IPv6, out of what the registries give out (lookup.h)."""
    draw = random.Random(count)
    found = set[tuple[int, int]]()
    for index in range(count):
        prefix = LENGTHS6[index % len(LENGTHS6)]
        address = (0x240 + 0x20 * draw.randrange(5)) << 116 | draw.getrandbits(116)
        found.add((address >> 128 - prefix << 128 - prefix, prefix))
    return sorted(found)


def write_networks(path: Path, which: list[tuple[int, int]], *, is_six: bool = False) -> None:
    first, length = (0, 0) if is_six else (0xFFFF << 32, 96)
    keys = (NET_KEY.pack((first | address).to_bytes(16, "big"), length + prefix, 0, 0) for address, prefix in which)
    _write(path, Section.NET, b"".join(keys))


def write_delta(path: Path, base: Generation, count: int) -> None:
    """Write a delta that adds `count` addresses to a list of addresses."""
    keys = _big_endian(addresses(count, offset=2))
    about = About(base.number + 1, base.created_s, DELTA, base.number)
    data = bytearray(b"".join(assemble(about, [_columns(Section.IP4, keys)], _GROUPS, _STRINGS)))
    root, total = native.after([base.buffer], base.root, base.total, bytes(data))
    data[ROOT_AT : ROOT_AT + native.ROOT_SIZE + 4] = root + total.to_bytes(4, "little")
    path.write_bytes(data)


def write_ipset(path: Path, count: int, name: str, *, create: bool = True, offset: int = 0) -> None:
    """Write what `ipset restore` reads."""
    size = 1 << max(count - 1, 1023).bit_length()
    with path.open("w") as file:
        if create:
            file.write(f"create {name} hash:ip family inet hashsize {size} maxelem {2 * size}\n")
        for chunk in _chunks(addresses(count, offset)):
            file.write("".join(f"add {name} {IPv4Address(one)}\n" for one in chunk))


def write_nft(path: Path, count: int, name: str, *, interval: bool = False, offset: int = 0) -> None:
    """Write what `nft -f` reads."""
    flags = "; flags interval" if interval else ""
    with path.open("w") as file:
        file.write(f"add table inet {name}\nadd set inet {name} listed {{ type ipv4_addr{flags}; }}\n")
        for chunk in _chunks(addresses(count, offset)):
            elements = ",\n".join(str(IPv4Address(one)) for one in chunk)
            file.write(f"add element inet {name} listed {{ {elements} }}\n")


def _chunks(values: Iterable[int]) -> Iterator[list[int]]:
    chunk = list[int]()
    for value in values:
        chunk.append(value)
        if len(chunk) == TEXT_CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _big_endian(values: Iterable[int]) -> bytes:
    keys = array("I", values)
    keys.byteswap()
    return keys.tobytes()


def _columns(section: Section, keys: bytes) -> Columns:
    count = len(keys) // {Section.IP4: 4, Section.SHA256: 32, Section.NET: NET_KEY.size}[section]
    return Columns(section, keys, bytes(4 * count), array("Q", range(1, count + 1)), bytes(4 * count))


def _write(path: Path, section: Section, keys: bytes) -> None:
    with path.open("wb") as file:
        for piece in assemble(About(1, 1, 0), [_columns(section, keys)], _GROUPS, _STRINGS):
            file.write(piece)
    with path.open("r+b") as whole, mmap.mmap(whole.fileno(), 0) as data:
        data[ROOT_AT : ROOT_AT + native.ROOT_SIZE] = native.state_root(data)
