# SPDX-License-Identifier: Apache-2.0
"""`mamplus detach`: the one way to take enforcement off on purpose."""

from mamplus_host.cli.state import CLI, OUT, safe
from mamplus_host.clock import DeviceClock, SystemClock
from mamplus_host.config import Config
from mamplus_host.errors import ConfigInvalid, NotPossible
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.network import netfilter
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.ids import new_id
from mamplus_host.maintenance.window import Window
from mamplus_host.outbox.store import Outbox
from mamplus_host.statelock import StateLock
from mamplus_host.verdicts import Escalation, Finding, Severity


def run() -> None:
    """Take all hooks, rules and pins of a stopped agent off this machine.

    An agent that stops, or is killed, leaves its enforcement standing on purpose; this ends it.
    """
    from mamplus_host.kernel import guard as guard_
    from mamplus_host.kernel import pins, responder  # the native extension: other commands do without
    from mamplus_host.kernel.objects import Kernel

    config = CLI.config
    is_open = Window(config.state, DeviceClock(config.state)).left_s() > 0
    if guard_.stands(config) and not is_open:
        raise NotPossible(
            "the self-protection stands, and no maintenance window is open; get a code from your enterprise (there:"
            " mamplus-enterprise maintenance DEVICE) and enter it: mamplus maintenance CODE"
        )
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = StateLock(config.state)  # AlreadyRunning: an agent would put everything back
    guard = StateLock(config.bpffs) if config.bpffs.is_dir() else None  # another state's agent may live on these pins
    was_attached = bool(pins.directories(config))
    guard_.claim(config)
    _let_go(config)
    if was_attached:
        _tell(config, is_open=is_open)
    netfilter.remove(config)  # before the pins: a rule whose pin is gone breaks every later iptables commit
    responder.stop(config)
    Kernel.detach(config)
    lock.release()
    if guard is not None:
        guard.release()
    OUT.print("detached: nothing is enforced any more" if was_attached else "nothing was attached: nothing is enforced")


def _tell(config: Config, *, is_open: bool) -> None:
    """Journal it; without a window it is tampering, and the enterprise hears of it when an agent runs again."""
    clock = DeviceClock(config.state)
    journal = Journal(config.state / "journal", max_bytes=config.limits.journal_bytes, clock=clock)
    outbox = Outbox(config.state / "outbox.sqlite", max_bytes=config.limits.outbox_bytes)
    inside = "in a maintenance window" if is_open else "outside of any maintenance window"
    summary, at_s = f"the agent was detached {inside}: nothing is enforced", clock.wall_s()
    try:
        journal.append("note", "", {"what": summary})
        outbox.put(
            Escalation(
                id=new_id(at_s), kind="tamper", finding=Finding.CONFIRMED,
                severity=Severity.LOW if is_open else Severity.CRITICAL, at=at_s, boot_ns=clock.boot_ns(), generation=0,
                rule="maintenance" if is_open else "tamper", summary=summary,
            )
        )  # fmt: skip
    finally:
        outbox.close()
        journal.close()


def _let_go(config: Config) -> None:
    """Nobody would thaw what is held once the agent is gone for good."""
    journal = Journal(config.state / "journal", max_bytes=config.limits.journal_bytes, clock=SystemClock())
    vault = Vault(config.state / "vault", limits=config.limits, clock=SystemClock())
    try:
        executor = Executor(config, journal=journal, vault=vault, clock=SystemClock())
        for outcome in executor.release_all("the agent is detached"):
            OUT.print(f"let go of what alert {outcome.decision_id} held: {outcome.state} {safe(outcome.detail)}")
    except ConfigInvalid:  # the scope's cgroup is gone, and all that was held in it
        pass
    finally:
        journal.close()
        vault.close()
