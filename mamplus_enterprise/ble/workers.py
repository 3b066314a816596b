# SPDX-License-Identifier: Apache-2.0
"""Judging by several processes: chunks of lines out, what became of them back, in order."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mamplus_enterprise.ble.judge import Judge, Judged
from mamplus_enterprise.ble.reading import Line

SMALL_BYTES = 512 << 10  # below, starting processes takes longer than the work
_AHEAD = 2  # chunks a process that wait: memory is bounded by them
Chunks = Iterator[list[Line]]
Many = Callable[[Chunks], Iterator[Judged]]

_judge: Judge | None = None  # in a worker: the one it was forked with


@contextmanager
def judged_by(judge: Judge, path: Path, jobs: int = 0) -> Iterator[Many]:
    """Yield a function that judges chunks. Workers are forked at once, before a database or a thread is open."""
    jobs = jobs or len(os.sched_getaffinity(0))
    if jobs == 1 or not path.is_file() or path.stat().st_size < SMALL_BYTES:
        yield lambda chunks: (judge.lines(chunk) for chunk in chunks)
        return
    context = multiprocessing.get_context("fork")  # the gate's tables are shared, not sent
    pool = ProcessPoolExecutor(jobs, context, _begin, (judge,))
    try:
        pool.submit(int).result()
        yield lambda chunks: _in_order(pool, chunks, jobs * _AHEAD)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(judge: Judge) -> None:
    global _judge  # noqa: PLW0603 - the only one of its process
    _judge = judge
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def _work(chunk: list[Line]) -> Judged:
    assert _judge is not None
    return _judge.lines(chunk)


def _in_order(pool: ProcessPoolExecutor, chunks: Chunks, most: int) -> Iterator[Judged]:
    waiting: deque[Future[Judged]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_work, chunk))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
