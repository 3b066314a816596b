# SPDX-License-Identifier: Apache-2.0
"""Power cuts: a child does a deed and is gone at its n-th step; nothing of it runs on, no `finally` either."""

import os
from collections.abc import Callable, Iterator

from mamplus_host.executor import steps

CUT, FAILED = 77, 78


def cut(work: Callable[[], object], at: int) -> bool:
    """Run `work` in a child that ends at step number `at`, from 1; say whether it came so far."""
    child = os.fork()
    if not child:
        passed = 0

        def hook(_name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == at:
                os._exit(CUT)

        code = FAILED
        try:
            with steps.hooked(hook):
                work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CUT), f"the deed failed by itself before step {at}"
    return code == CUT


def each_cut(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Yield after a cut at each step of the work that `prepare` makes ready anew; ends when no step is left."""
    at = 1
    while cut(prepare(), at):
        yield at
        at += 1
    assert at > 1, "the deed has no step"
