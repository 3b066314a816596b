# SPDX-License-Identifier: Apache-2.0
"""The masks of networks: no length that may cover an address is left out, and none is in for nothing."""

import random
from itertools import chain

import pytest

from mamplus_host.ble.format import Section
from tests.pure.test_table_build import BLOCK, MAPPED, NET, SUSPECT, Table, columns

Networks = list[tuple[int, int]]  # address, prefix length


def keys4(networks: Networks) -> list[tuple[bytes, int]]:
    return [(NET.pack(MAPPED + address.to_bytes(4, "big"), 96 + prefix, 0, 0), BLOCK) for address, prefix in networks]


def keys6(networks: Networks, port: int = 0) -> list[tuple[bytes, int]]:
    return [(NET.pack(address.to_bytes(16, "big"), prefix, 0, port), SUSPECT) for address, prefix in networks]


def drawn(draw: random.Random, prefixes: list[int], bits: int) -> Networks:
    """Networks of these lengths, most of them near to each other."""
    first = 0x2A000000 << bits - 32
    addresses = [first | draw.getrandbits(bits - 12 if draw.random() < 0.8 else bits) for _ in prefixes]
    return [(a >> bits - prefix << bits - prefix, prefix) for a, prefix in zip(addresses, prefixes, strict=True)]


def places6(address: int, bits: int) -> tuple[int, int]:
    spread = (address >> 96) * 0x9E3779B97F4A7C15 % (1 << 64)
    one = spread >> 64 - bits
    return one, one ^ 1 + ((spread >> 20 & 255) * 7 >> 8)


def bit6(prefix: int) -> int:
    return (33 + prefix % 32 + prefix // 32) % 64


def masks_of(four: Networks, six: Networks, bits: int) -> list[int]:
    """What the masks of these networks are."""
    masks = [0] * (1 << bits)
    for address, prefix in four:
        first, last = (one >> 32 - bits for one in (address, address | (1 << 32 - prefix) - 1))
        for place in range(first, last + 1):
            masks[place] |= 1 << prefix
    for address, prefix in six:
        covered = range(address, address + (1 << max(128 - prefix, 96)), 1 << 96) if prefix >= 24 else ()
        for place in chain.from_iterable(places6(one, bits) for one in covered) if covered else range(1 << bits):
            masks[place] |= 1 << bit6(prefix)
    return masks


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("bits", [3, 8, 14])
def test_the_masks_know_each_length_that_may_cover_an_address_and_no_other(bits: int, threads: int) -> None:
    draw = random.Random(bits)
    four, six = drawn(draw, [*range(33)] * 3, 32), drawn(draw, [*range(129)] * 3, 128)
    few = Table(1, 200, mask_bits=bits)
    assert few.fill(columns(Section.NET, keys4(four)), columns(Section.NET, keys6(six))) == 0
    assert few.masks == masks_of(four, six, bits)

    four, six = drawn(draw, [*range(12, 33)] * 1000, 32), drawn(draw, [*range(28, 65)] * 2000, 128)
    many = Table(10, 1900, threads, mask_bits=bits)
    assert many.fill(columns(Section.NET, keys4(four) + keys6(six))) == 0
    assert many.masks == masks_of(four, six, bits)


def test_a_network_that_comes_in_later_is_in_the_masks_and_one_that_goes_hides_no_other() -> None:
    draw = random.Random(7)
    old, new = drawn(draw, [*range(16, 129)], 128), drawn(draw, [*range(129)], 128)
    table = Table(1, 200, mask_bits=9)
    assert table.fill(columns(Section.NET, keys6(old))) == 0

    assert table.set(columns(Section.NET, keys6(new)), bytes([BLOCK] * len(new))) == 0
    assert table.set(columns(Section.NET, keys6(old[::2])), bytes(len(old[::2]))) == 0

    assert table.masks == masks_of([], old + new, 9)


def test_a_port_and_a_length_that_is_left_out_are_in_no_mask() -> None:
    table = Table(1, 4, mask_bits=3)
    table.build.skip6[64 * 4] = 1

    assert table.fill(columns(Section.NET, keys6([(0, 0)], port=22) + keys6([(0x2A << 120, 64)]))) == 0

    assert table.masks == [0] * 8


def test_the_usual_lengths_of_ipv6_share_no_bit_with_each_other_nor_with_ipv4() -> None:
    usual = [24, 28, 29, 30, 32, 36, 40, 44, 46, 47, 48, 52, 56, 64, 96, 112, 128]

    bits = {bit6(prefix) for prefix in usual}

    assert (len(bits), min(bits)) == (len(usual), 33 + 1)
