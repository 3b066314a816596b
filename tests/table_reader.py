# SPDX-License-Identifier: Apache-2.0
"""Reads a BLE table as kernel_probes/include says, by other code than that which writes and asks it."""

import struct
from collections.abc import Iterator

M64 = (1 << 64) - 1
V4 = 1 << 61
NAME_PRIME = (1 << 31) - 1
WORDS = 8


def mix(x: int) -> int:
    for _ in range(2):
        x ^= x >> 32
        x = x * 0xD6E8FEB86659FD93 & M64
    return x ^ x >> 32


def hashed(salt: tuple[int, int], *key: int) -> int:
    state = salt[0]
    for word in key:
        state = (mix(state ^ word) * 0x9E3779B97F4A7C15 + salt[1]) & M64
    return mix(state) & (V4 - 1)


def ip4(address: int, prefix: int = 32, protocol: int = 0, port: int = 0) -> int:
    return V4 | address | prefix << 32 | port << 38 | {0: 0, 6: 1, 17: 2}[protocol] << 54


def ip6(salt: tuple[int, int], address: bytes, prefix: int = 128, protocol: int = 0, port: int = 0) -> int:
    return hashed(salt, *struct.unpack(">QQ", address), prefix | protocol << 8 | port << 16)


def sha256(salt: tuple[int, int], digest: bytes) -> int:
    return hashed(salt, *struct.unpack("<4Q", digest))


def name(salt: tuple[int, int], value: str) -> int:
    """`value` as in an entry: with a leading `=` the name alone."""
    sums = [0, 0]
    for byte in reversed(value.removeprefix("=").encode()):
        for i, point in enumerate((salt[0], salt[0] >> 32)):
            total = sums[i] * (point & NAME_PRIME) + byte
            sums[i] = (total & NAME_PRIME) + (total >> 31)
    key = sums[0] << 32 | sums[1]
    return hashed(salt, key ^ M64 if value.startswith("=") else key)


class Reader:
    """A table as bytes."""

    def __init__(self, memory: bytes, salt: tuple[int, int], blocks: int, block_buckets: int, stashed: int) -> None:
        self._words, self._halves = memoryview(memory).cast("Q"), memoryview(memory).cast("I")
        self._salt, self._blocks, self._buckets, self._stashed = salt, blocks, block_buckets, stashed

    def verdict(self, identity: int) -> int:
        """Return what a program that asks is told; 0: nothing."""
        if not self.passes_filter(identity):
            return 0
        spread = mix(identity ^ self._salt[1])
        begin = (spread >> 32) * self._blocks >> 32
        first = self._bucket(begin * self._buckets + ((spread & 0xFFFF) * self._buckets >> 16))
        second = self._bucket(begin * self._buckets + ((spread >> 16 & 0xFFFF) * self._buckets >> 16))
        return next((word & 3 for word in first + second + self.stash() if word >> 2 == identity), 0)

    def passes_near(self, identity: int) -> bool:
        """Return whether the near filter of the identity's first bucket lets it through."""
        return self._has_bits(0, identity, (32, 37))

    def passes_filter(self, identity: int) -> bool:
        """Return whether the buckets are asked for the identity at all."""
        return self.passes_near(identity) and self._has_bits(self._blocks * self._buckets, identity, (42, 16))

    def stash(self) -> list[int]:
        return self._bucket(self._blocks * self._buckets)[: self._stashed]

    def held(self) -> dict[int, int]:
        """Return verdict by identity of all words; each must be there once."""
        words = list(self._all())
        found = {word >> 2: word & 3 for word in words}
        assert len(found) == len(words), "an identity is in the table twice"
        return found

    def _has_bits(self, filters: int, identity: int, shifts: tuple[int, int]) -> bool:
        spread = mix(identity ^ self._salt[1])
        first = ((spread >> 32) * self._blocks >> 32) * self._buckets + ((spread & 0xFFFF) * self._buckets >> 16)
        half = self._halves[2 * WORDS * (self._blocks * self._buckets + 1) + filters + first]
        return all(half >> (spread >> shift & 31) & 1 for shift in shifts)

    def _bucket(self, index: int) -> list[int]:
        return list(self._words[index * WORDS : (index + 1) * WORDS])

    def _all(self) -> Iterator[int]:
        end = self._blocks * self._buckets * WORDS
        yield from (word for word in self._words[:end] if word)
        yield from self.stash()
