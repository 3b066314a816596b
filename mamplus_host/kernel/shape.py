# SPDX-License-Identifier: Apache-2.0
"""What the programs must know of a side's tables to ask them: `struct mamplus_shape`."""

import struct
from collections.abc import Iterable, Sequence

from mamplus_host.kernel import layout
from mamplus_host.kernel.filling import Filled

_SPECIFIC = (layout.Q_PORT | layout.Q_PROTOCOL, layout.Q_PORT, layout.Q_PROTOCOL, 0)  # the most specific first
_QUALIFIERS = len(_SPECIFIC)


def pack_shape(salt: bytes, tables: Sequence[Filled]) -> bytes:
    """Return `struct mamplus_shape` of one table of each kind."""
    ordered = sorted(tables, key=lambda filled: filled.table.number)
    net = ordered[layout.T_NET]
    probes4, probes6 = _probes(net.probes4), _probes(net.probes6)
    return layout.SHAPE.pack(
        salt,
        _numbers(filled.blocks for filled in ordered),
        _numbers(filled.block_buckets for filled in ordered),
        _numbers(filled.stashed for filled in ordered),
        _numbers(filled.memory.cut for filled in ordered),
        sum(1 << qualifier for qualifier, count in enumerate(net.ports) if count),
        net.mask_bits, len(probes4), len(probes6), _packed(probes4), _packed(probes6),
    )  # fmt: skip


def _numbers(values: Iterable[int]) -> bytes:
    return struct.pack(f"={layout.T_MAX}I", *values)


def _probes(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Return (prefix length, qualifier) of all networks that came in, the most specific first."""
    return [
        (prefix, qualifier)
        for prefix in reversed(range(len(counts) // _QUALIFIERS))
        for qualifier in _SPECIFIC
        if counts[prefix * _QUALIFIERS + qualifier]
    ]


def _packed(probes: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(bytes(probe) for probe in probes)
