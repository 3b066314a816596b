# SPDX-License-Identifier: Apache-2.0
"""`mamplus detach`: the one way to take enforcement off on purpose."""

from mamplus_host.cli.state import CLI, OUT
from mamplus_host.executor import netfilter
from mamplus_host.statelock import StateLock


def run() -> None:
    """Take all hooks, rules and pins of a stopped agent off this machine.

    An agent that stops, or is killed, leaves its enforcement standing on purpose; this ends it.
    """
    from mamplus_host.kernel import responder  # the native extension: other commands do without
    from mamplus_host.kernel.objects import Kernel

    config = CLI.config
    config.state.mkdir(parents=True, exist_ok=True)
    lock = StateLock(config.state)  # AlreadyRunning: an agent would put everything back
    netfilter.remove(config)  # before the pins: a rule whose pin is gone breaks every later iptables commit
    responder.stop(config)
    Kernel.detach(config)
    lock.release()
    OUT.print("detached: nothing is enforced any more")
