# SPDX-License-Identifier: Apache-2.0
"""Asks the probes of the agent that runs here, by what its own list blocks.

Two things are looked at. That every link stands: the kernel's own account of it (its program is the pinned one, its
cgroup the scope). And that what it refuses is refused: a program in the agent's scope connects to an address of
the list and asks for a name of the list, in a network namespace where only loopback is, so that nothing
could leave; and a harmless program starts of which the kernel was told that it has a listed hash.

A list without such an entry leaves that hook untried, and the result says so.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mamplus_host.ble.entry import Kind
from mamplus_host.config import Config, cgroup_dir
from mamplus_host.doctor.canaries import canaries
from mamplus_host.doctor.place import (
    EPERM,
    KILLED,
    PREFIX,
    REFUSED,
    act_in,
    make_cgroup,
    make_folder,
    new_program,
    run_in,
    sha256_of,
)
from mamplus_host.doctor.trial import Found, NotEnforced, Trial, tried
from mamplus_host.errors import MamplusError, NotPossible
from mamplus_host.executor.network import netfilter
from mamplus_host.kernel import pins
from mamplus_host.kernel.bpf import Fd
from mamplus_host.kernel.tables import Tables, file_of

GROUP, LINKS = "running agent", "agent: links"
RESTART = "restart the agent; if that does not help: mamplus detach, then start it"
UNTRIED = (
    "the list has no {} to try with; one that nobody uses will do: mamplus-enterprise ble add {} ... --verdict block"
)


class _Here:
    """The running agent's scope and tables."""

    def __init__(self, config: Config, stack: contextlib.ExitStack) -> None:
        self.config, self.state = config, config.state
        self.scope = cgroup_dir(config)
        self.directory = pins.directory_for(config, self.scope)
        if not pins.is_complete(self.directory):
            raise NotPossible("no agent's probes are attached here; start one: mamplus run")
        self.tables = Tables(self.directory)
        self.cgroup = make_cgroup(self.scope / f"{PREFIX}{secrets.token_hex(4)}", stack)
        self.exec_tier = "lsm" if pins.link_pin(self.directory, "mamplus_bprm").exists() else "signal"
        self._canaries: dict[Kind, list[str]] | None = None

    def canaries(self, kind: Kind) -> list[str]:
        """Return values of that kind that the list in force blocks; _Untried when it has none."""
        if self._canaries is None:
            self._canaries = canaries(self.state, self.tables.generation())
        if not self._canaries.get(kind):
            word = kind.name.lower()
            raise _Untried(UNTRIED.format(word, word))
        return self._canaries[kind]


class _Untried(Exception):
    """Attached, and nothing on the list to try it with."""


def examine(config: Config) -> Iterator[Trial]:
    """Yield what the running agent's probes did; always the same controls, so that one that is lost is missed."""
    if config.agent.mode == "monitor":
        yield from all_as(_monitors)
        return
    with contextlib.ExitStack() as stack:
        try:
            here = _Here(config, stack)
        except (MamplusError, OSError) as error:
            yield from all_as(partial(_fail, error))
            return
        yield tried(GROUP, LINKS, partial(_links, here))
        for control, tier, trial in _TRIALS:
            yield tried(GROUP, control, partial(_or_untried, trial, here, tier or here.exec_tier))


def all_as(trial: Callable[[], Found]) -> Iterator[Trial]:
    """Yield the same result for every control."""
    for control in (LINKS, *(control for control, _tier, _trial in _TRIALS)):
        yield tried(GROUP, control, trial)


def _fail(error: Exception) -> Found:
    raise error


def kept_away() -> Found:
    """What a process says that is none of the agent's, where self-protection stands: to try would be an attack."""
    way = "mamplus doctor --last shows what the agent found itself"
    return Found("", "not tried: the agent's self-protection lets nobody else ask its hooks", False, way)


def _monitors() -> Found:
    return Found("", 'the agent only watches: [agent] mode = "monitor"', False, 'set [agent] mode = "enforce"')


def _or_untried(trial: Callable[[_Here], Found], here: _Here, tier: str) -> Found:
    try:
        return trial(here)
    except _Untried as untried:
        detail, _, way_out = str(untried).partition("; ")
        return Found(tier, f"attached, not tried: {detail}", False, way_out)


def _links(here: _Here) -> Found:
    """Every link of the agent calls the program that is pinned beside it, on the agent's cgroup."""
    scope_id = here.scope.stat().st_ino
    names = [*pins.LINKS, *(name for name in pins.OPTIONAL_TRACING if pins.link_pin(here.directory, name).exists())]
    for name in names:
        link = _about(pins.link_pin(here.directory, name))
        program = _about(pins.program_pin(here.directory, name))
        if link["prog_id"] != program["prog_id"]:
            raise NotEnforced(f"the link of {name} calls program {link['prog_id']}, want {program['prog_id']}", RESTART)
        if name in pins.CGROUP and int(link["cgroup_id"]) != scope_id:
            raise NotEnforced(
                f"the link of {name} is not attached to the agent's cgroup any more",
                "mamplus detach, then start the agent",
            )
    return Found("kernel", f"{len(names)} links call their programs, on the agent's cgroup")


def _about(pin: Path) -> dict[str, str]:
    """Return what the kernel says of a pinned link or program."""
    with Fd.open(pin) as descriptor:
        lines = Path(f"/proc/self/fdinfo/{descriptor.number}").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _address(here: _Here) -> Found:
    values = here.canaries(Kind.IP)
    met = _act_alone(here, *([how, value] for value in values for how in ("connect", "send")))
    pairs = list(zip(met[::2], met[1::2], strict=True))
    if (EPERM, EPERM) not in pairs:
        raise NotEnforced(f"addresses of the list were not refused in the agent's scope: {pairs}", RESTART)
    return Found(
        "cgroup", f"an address of the list was refused in the agent's scope: {values[pairs.index((EPERM, EPERM))]}"
    )


def _name(here: _Here) -> Found:
    names = [value.removeprefix("=") for value in here.canaries(Kind.DOMAIN)]
    met = _act_alone(here, *(["ask-name", "127.0.0.1", name] for name in names))
    if EPERM not in met:
        raise NotEnforced(f"queries for names of the list left a program in the agent's scope: {met}", RESTART)
    return Found(
        "cgroup", f"a query for a name of the list was refused in the agent's scope: {names[met.index(EPERM)]}"
    )


def _act_alone(here: _Here, *todo: Sequence[str]) -> list[int]:
    """Do network acts in the agent's scope and in a network namespace of their own: nothing can leave the machine."""
    (alone,) = act_in(here.cgroup, ["alone"])
    if alone:
        raise _Untried("no network namespace of its own could be made; the unit's RestrictNamespaces must allow net")
    return act_in(here.cgroup, ["alone"], *todo)[1:]


def _program(here: _Here) -> Found:
    """A harmless program of which the kernel is told that its content is listed."""
    codes = []
    for digest in here.canaries(Kind.SHA256):
        with _new_program() as program:
            marker = program.with_name("ran")
            with program.open("rb") as file:
                key = file_of(file.fileno())
            here.tables.remember(key, digest)
            try:
                codes.append(run_in(here.cgroup, program, marker))
            finally:
                here.tables.forget(key.dev, key.ino)
            if not marker.exists() and codes[-1] in (KILLED, REFUSED):
                tier = here.exec_tier if codes[-1] == REFUSED else "signal"
                return Found(tier, f"a hash of the list did not run in the agent's scope: {digest[:16]}...")
    raise NotEnforced(f"programs with hashes of the list ran in the agent's scope (exit {codes})", RESTART)


def _unknown(here: _Here) -> Found:
    """The agent's responder hashes what nobody has seen."""
    before = here.tables.counters()["held"]
    with _new_program() as program:
        marker = program.with_name("ran")
        digest = sha256_of(program)
        code = run_in(here.cgroup, program, marker)
        with program.open("rb") as file:
            seen = here.tables.known(file_of(file.fileno()))
        if code != 0 or not marker.exists():
            raise NotEnforced(
                f"a new program did not get its answer in the agent's scope (exit {code})",
                "is the responder there? mamplus status",
            )
        if here.tables.counters()["held"] == before:
            raise NotEnforced("a new program ran in the agent's scope without being hashed", RESTART)
        if seen not in ("", digest):
            raise NotEnforced(f"the kernel remembers {seen} of a new program, want {digest}")
    return Found(here.exec_tier, "a new program waited for its hash in the agent's scope, then ran")


def _packets(here: _Here) -> Found:
    """The rules are there; that they drop is tried with rules of our own (`network.packets`)."""
    missing = netfilter.check(here.config, pins.packet_pin(here.config, "in"), pins.packet_pin(here.config, "out"))
    lacking = [f"{one} in {name}" for name, found in missing.items() for one in found]
    if lacking:
        raise NotEnforced(f"rules are missing: {', '.join(lacking[:3])}", RESTART)
    return Found("iptables", "its rules are in place; that such rules drop is tried above")


@contextlib.contextmanager
def _new_program() -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        yield new_program(make_folder(stack))


_TRIALS: tuple[tuple[str, str, Callable[[_Here], Found]], ...] = (  # tier "": that of starts
    ("agent: listed program", "", _program),
    ("agent: unknown program", "", _unknown),
    ("agent: connect, send", "cgroup", _address),
    ("agent: DNS", "cgroup", _name),
    ("agent: packets", "iptables", _packets),
)
