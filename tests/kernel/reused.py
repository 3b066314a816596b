# SPDX-License-Identifier: Apache-2.0
"""Makes probes that a test has used as they were when they had just been attached."""

from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import possible_cpus

_FIRST = bytes(4)


def as_new(kernel: Kernel) -> None:
    """No list, no guard, no interpreter, no file known, nothing counted, and nothing in the ring."""
    kernel.interpreters.use(())
    kernel.tables.forget_all()
    kernel.tables.set_guard(())
    Map.pinned(kernel.directory / "active", 4, layout.ACTIVE.size).set(_FIRST, bytes(layout.ACTIVE.size))
    counters = Map.pinned(kernel.directory / "counters", 4, 8 * possible_cpus())
    for key in list(counters.keys()):
        counters.set(key, bytes(counters.value_size))
    kernel.watching._put("counter", b"")
    while kernel.ring.drain():
        pass
