# SPDX-License-Identifier: Apache-2.0
"""All trials, in the order in which they are shown; each ends before the next begins."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from mamplus_host.config import Config
from mamplus_host.doctor import contents, files, holding, itself, network, programs, running
from mamplus_host.doctor.place import Place
from mamplus_host.doctor.trial import STATES, Found, NotEnforced, Trial, tried

_NEEDS_NO_PROBES = (files.protected, holding.freezer)
_TRIALS: tuple[tuple[str, str, Callable[[Place], Found]], ...] = (
    ("programs", "exec: listed program", programs.listed_program),
    ("programs", "exec: unknown program", programs.unknown_program),
    ("programs", "exec: library", contents.here_or_marked(contents.library)),
    ("programs", "exec: ld.so FILE", contents.here_or_marked(contents.through_loader)),
    ("programs", "exec: script", contents.here_or_marked(contents.script)),
    ("network", "connect, send", network.addresses),
    ("network", "DNS", network.names),
    ("network", "packets of open sockets", network.packets),
    ("files", "open of a listed file", contents.here_or_marked(contents.plain_file)),
    ("files", "guarded path", files.guarded),
    ("files", "data folder", files.data_folder),
    ("files", "protected file", files.protected),
    ("suspects", "hold a suspect", holding.freezer),
)
_OF_ITSELF: tuple[tuple[str, str, Callable[[Place], Found]], ...] = (
    ("agent itself", "signals to the agent", itself.signals),
    ("agent itself", "ptrace, memory of the agent", itself.tracing),
    ("agent itself", "pins", itself.pinned),
)


def kernel_trials(config: Config | None) -> Iterator[Trial]:
    """Try what this kernel allows, one control after the other. `config`: of an agent that may run here."""
    with contextlib.ExitStack() as stack:
        place = Place(stack)
        if config is not None:
            place.beside(config)
        attached = tried("probes", "probes", partial(_attach, place, stack))
        yield attached
        is_attached = attached.state != STATES[-1]
        for group, control, trial in _TRIALS:
            is_possible = is_attached or trial in _NEEDS_NO_PROBES
            yield tried(group, control, partial(trial, place) if is_possible else _without_probes)
        with place.defended() if is_attached else contextlib.nullcontext():
            for group, control, trial in _OF_ITSELF:
                yield tried(group, control, partial(trial, place) if is_attached else _without_probes)


def agent_trials(config: Config) -> Iterator[Trial]:
    """Try what the agent of `config` enforces at this moment."""
    yield from running.examine(config)


def _without_probes() -> Found:
    raise NotEnforced("the probes could not be attached")


def _attach(place: Place, stack: contextlib.ExitStack) -> Found:
    place.attach(stack)
    assert place.kernel is not None
    hooks = sorted(place.kernel.hooks())
    return Found("kernel", f"loaded and attached: {', '.join(hooks)}")
