# SPDX-License-Identifier: Apache-2.0
"""Who beside the agent may write the agent's state, where the kernel guards it: one command of ours at a time.

A guest is who connected, as the kernel says, and only for as long as the connection stands. The kernel's rule goes
by pid and start time, so a number that another process gets meanwhile is worth nothing.
"""

import select
from collections.abc import Callable

from mamplus_host.control.server import Peer
from mamplus_host.errors import NotPossible


class Guests:
    """The one place for a guest."""

    def __init__(self, admit: Callable[[int], int], dismiss: Callable[[], object]) -> None:
        """`admit` lets a process in, by pid, and returns into how many sets of pins; `dismiss` ends that."""
        self._admit, self._dismiss = admit, dismiss
        self._peer: Peer | None = None
        dismiss()  # whom an agent before us may have left there

    def let_in(self, peer: Peer) -> int:
        """Make `peer` the guest until its connection ends. NotPossible while there is another one."""
        now = self._peer
        if now is not None and now is not peer and _lives(now):
            raise NotPossible(f"process {now.pid} is writing the agent's state; try again when it has ended")
        count = self._admit(peer.pid)
        self._peer = peer
        if not _lives(peer):  # then the number may be another's by now
            self._end(peer)
            raise NotPossible(f"process {peer.pid}, which connected, has ended; connect from the one that writes")
        peer.stay(self._end)
        return count

    def _end(self, peer: Peer) -> None:
        if self._peer is peer:
            self._peer = None
            self._dismiss()


def _lives(peer: Peer) -> bool:
    """Whether the process that connected has not ended."""
    if peer.pidfd < 0:
        return False
    poll = select.poll()
    poll.register(peer.pidfd, select.POLLIN)
    return not poll.poll(0)
