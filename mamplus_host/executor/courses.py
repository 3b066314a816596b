# SPDX-License-Identifier: Apache-2.0
"""What is done step by step: at once, in line with one thread beside the loop, or as far as it ends by itself.

Journey: execute -> [courses] -> runner.

A course is a generator that yields jobs and is given what came of each. It runs in the loop's thread, and so does
whatever is written down; only its slow jobs (a whole file to read, a helper program to wait for) run in the thread of
the line, one at a time. Courses in line keep their order, and the next one begins when the one before it is over. A job
that never ends (a dying disk) holds up its own line alone: what must not wait for others has `another` one.
A job that only waits for something to end (a killed process) has descriptors that are readable once it has: such a
course is put aside by `Ends`, and nobody waits for it.
"""

import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

MAX_IN_LINE = 1024  # of what nobody ordered; a few MB
STOP_S = 20  # for the job that runs, when the agent stops
END_S = 2.0  # for what ends by itself; whoever put it off looks after it then
_Ended = dict[int, Callable[[], object]]  # by a descriptor that is readable once something has ended, what notes that


class Job(NamedTuple):
    """One step of a course."""

    run: Callable[[], Any]
    is_slow: bool = False  # may take seconds, and shares nothing with the loop
    ends: _Ended | None = None  # all that `run` waits for; who waits instead takes away, and closes, what has ended


Course = Generator[Job, Any, None]
_Resume = Callable[[], Job]


def at_once(course: Course) -> None:
    """Run a course to its end, here."""
    resume: _Resume = partial(next, course)
    while True:
        try:
            job = resume()
        except StopIteration:
            return
        resume = _done(course, job)


def _done(course: Course, job: Job) -> _Resume:
    """Do a job; return what goes on with its course."""
    try:
        found = job.run()
    except Exception as error:
        return partial(course.throw, error)
    return partial(course.send, found)


def ending(ends: _Ended) -> Job:
    """Return the job of waiting until something has ended, at most END_S; the descriptors are closed after it."""
    return Job(partial(_await, ends), ends=ends)


def _await(ends: _Ended) -> None:
    until_s = time.monotonic() + END_S
    poll = select.poll()
    for descriptor in ends:
        poll.register(descriptor, select.POLLIN)
    try:
        while ends and (left_s := until_s - time.monotonic()) > 0:
            for descriptor, _mask in poll.poll(left_s * 1000):
                poll.unregister(descriptor)
                _note(ends, descriptor)
    finally:
        for descriptor in ends:
            os.close(descriptor)
        ends.clear()


def _note(ends: _Ended, descriptor: int) -> None:
    os.close(descriptor)
    ends.pop(descriptor)()


class _Aside(NamedTuple):
    course: Course
    job: Job
    then: Callable[[], object]
    until_s: float  # time.monotonic()


class Ends:
    """Courses that wait for something to end by itself. To be called in the loop's thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._aside: dict[int, _Aside] = {}  # by number, oldest first
        self._of: dict[int, int] = {}  # number, by descriptor
        self._last = 0

    def __len__(self) -> int:
        """Return for how many ends somebody waits."""
        return len(self._of)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `collect` has something to do."""
        return self._epoll.fileno()

    def enter(self, course: Course, then: Callable[[], object]) -> None:
        """Run a course until it is over, and call `then`; where it waits for something to end, `collect` goes on."""
        self._go_on(course, partial(next, course), then)

    def collect(self, wait_s: float = 0.0) -> None:
        """Go on with what has ended meanwhile, or waited for too long; wait for some of it when there is none."""
        for descriptor, _mask in self._epoll.poll(wait_s) if self._of else ():
            self._epoll.unregister(descriptor)
            number = self._of.pop(descriptor)
            _note(self._aside[number].job.ends or {}, descriptor)
        now_s = time.monotonic()
        for number, aside in list(self._aside.items()):
            if not aside.job.ends or now_s >= aside.until_s:
                self._take_up(number)

    def settle(self) -> None:
        """Wait until all of it is over."""
        while self._aside:
            self.collect(END_S / 10)

    def _take_up(self, number: int) -> None:
        course, job, then, _until_s = self._aside.pop(number)
        for descriptor in job.ends or ():  # it waited for too long
            self._epoll.unregister(descriptor)
            del self._of[descriptor]
            os.close(descriptor)
        if job.ends:
            job.ends.clear()
        self._go_on(course, partial(course.send, None), then)

    def _go_on(self, course: Course, resume: _Resume, then: Callable[[], object]) -> None:
        try:
            while not (job := resume()).ends:
                resume = _done(course, job)
        except StopIteration:
            then()
        except Exception:
            then()
            raise
        else:
            self._put_aside(course, job, then)

    def _put_aside(self, course: Course, job: Job, then: Callable[[], object]) -> None:
        self._last += 1
        self._aside[self._last] = _Aside(course, job, then, time.monotonic() + END_S)
        for descriptor in job.ends or ():
            self._of[descriptor] = self._last
            self._epoll.register(descriptor, select.EPOLLIN)


class Line:
    """Courses, one after the other. To be called in the loop's thread."""

    def __init__(self, post: Callable[[Callable[[], object]], object], *, most: int = MAX_IN_LINE) -> None:
        """`post` has the loop call something, soon."""
        self._post, self.most = post, most
        self._courses: deque[tuple[Course, Callable[[], object], str]] = deque()  # the first one runs
        self._jobs: queue.SimpleQueue[tuple[Course, Job] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Resume] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None  # that does slow jobs; not before it is needed: it costs memory
        self._is_begun = False
        self._job_since_s = 0.0  # time.monotonic(); 0: none runs

    def another(self) -> "Line":
        """Return a line with a thread of its own, that hands over to the same loop."""
        return type(self)(self._post, most=self.most)

    def __len__(self) -> int:
        return len(self._courses)

    def enter(self, course: Course, then: Callable[[], object], what: str = "") -> None:
        """Have `course` run when it is its turn, and `then` be called. `most` is for who enters to keep."""
        self._courses.append((course, then, what))
        self._begin_next()

    def overdue(self, after_s: float) -> str:
        """Return what course has a job that has run for longer than `after_s`; "" for none."""
        is_overdue = self._job_since_s and time.monotonic() - self._job_since_s > after_s
        return self._courses[0][2] if is_overdue else ""

    def stop(self, alive: Callable[[], object] = int, within_s: float = STOP_S) -> None:
        """End the course that runs, if it is over within `within_s`; those that wait are forgotten.

        `alive` is called each second. What takes longer is left: its intent is open, for the next start.
        """
        while len(self._courses) > self._is_begun:
            self._courses.pop()
        until_s = time.monotonic() + within_s
        while self._is_begun and time.monotonic() < until_s:
            alive()
            with suppress(queue.Empty):
                self._go_on(self._ready.get(timeout=1))
        self._jobs.put(None)

    def _go_on(self, resume: _Resume) -> None:
        """Run the first course on until it waits for the thread, or is over; then it is the next one's turn."""
        course, then, _what = self._courses[0]
        self._is_begun, self._job_since_s = True, 0.0
        try:
            while not (job := resume()).is_slow:
                resume = _done(course, job)
        except StopIteration:
            self._next(then)
        except Exception:
            self._next(then)
            raise
        else:
            self._hand_over(course, job)

    def _next(self, then: Callable[[], object]) -> None:
        self._courses.popleft()
        self._is_begun = False
        if self._courses:
            self._post(self._begin_next)
        then()

    def _begin_next(self) -> None:
        if self._courses and not self._is_begun:
            self._go_on(partial(next, self._courses[0][0]))

    def _hand_over(self, course: Course, job: Job) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._serve, name="slow deeds", daemon=True)
            self.thread.start()
        self._job_since_s = time.monotonic()
        self._jobs.put((course, job))

    def _serve(self) -> None:
        while (given := self._jobs.get()) is not None:
            self._ready.put(_done(*given))
            self._post(self._take_up)

    def _take_up(self) -> None:
        """Go on with the course whose job is done; nothing, when that was done already."""
        if not self._ready.empty():
            self._go_on(self._ready.get())
