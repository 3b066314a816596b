# SPDX-License-Identifier: Apache-2.0
"""`mamplus detach`: the one way to take enforcement off on purpose."""

from mamplus_host.cli.state import CLI, OUT, safe
from mamplus_host.clock import SystemClock
from mamplus_host.config import Config
from mamplus_host.errors import ConfigInvalid
from mamplus_host.executor import netfilter
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.vault import Vault
from mamplus_host.statelock import StateLock


def run() -> None:
    """Take all hooks, rules and pins of a stopped agent off this machine.

    An agent that stops, or is killed, leaves its enforcement standing on purpose; this ends it.
    """
    from mamplus_host.kernel import pins, responder  # the native extension: other commands do without
    from mamplus_host.kernel.objects import Kernel

    config = CLI.config
    config.state.mkdir(parents=True, exist_ok=True)
    lock = StateLock(config.state)  # AlreadyRunning: an agent would put everything back
    guard = StateLock(config.bpffs) if config.bpffs.is_dir() else None  # another state's agent may live on these pins
    was_attached = bool(pins.directories(config))
    _let_go(config)
    netfilter.remove(config)  # before the pins: a rule whose pin is gone breaks every later iptables commit
    responder.stop(config)
    Kernel.detach(config)
    lock.release()
    if guard is not None:
        guard.release()
    OUT.print("detached: nothing is enforced any more" if was_attached else "nothing was attached: nothing is enforced")


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
