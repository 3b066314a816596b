# SPDX-License-Identifier: Apache-2.0
"""The one shape of everything the executor does: prepare, do, undo, verify. decisions/0023 says why.

Journey: plan -> execute -> [shape] <- actions/*.py.

What crosses between a deed and the executor is plain JSON: the target goes in, facts come out, and the facts
are in the journal before anything is changed. So the next agent can finish or undo what this one began, and
a deed keeps no memory of its own.

    target   what to act on. `tgid` and `boot_ns` (of the event: the process is older than that, or is another),
             `path`, `address`, `port`, `protocol`, `uid`, `indicator`, `alert` (id of the decision), `reason` (one
             sentence for people), `message` (what the list's entry says to the user), `ttl_s` (how long it is to
             hold, 0: until it is undone); a person's command gives what its deed documents.
    facts    all that `do`, `undo` and `verify` need, the old values that the inverse puts back among them.

Between any two effects a deed calls `steps.step`; what it writes to a disk is synced before that.
"""

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from mamplus_host.verdicts import ActionKind

Facts = dict[str, Any]


class State(StrEnum):
    """What `verify` sees on the device."""

    DONE = "done"
    UNDONE = "undone"  # as before `do`, or as if it had never been
    BETWEEN = "between"  # neither: cut off, or somebody else changed it


class Deed(Protocol):
    """One kind of action. Errors are ActionFailed (or another MamplusError, OSError, ValueError)."""

    kind: ActionKind
    has_inverse: bool

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """Look, change nothing, and return the facts; ActionFailed for what is guarded, gone, or not possible here."""

    def do(self, facts: Facts) -> str:
        """Do it; may follow a `do` that was cut off anywhere. Returns words for people."""

    def undo(self, facts: Facts) -> str:
        """Do the inverse; may follow a `do` or an `undo` that was cut off anywhere. ActionFailed: none, and why."""

    def verify(self, facts: Facts) -> State:
        """Look at the device."""


@runtime_checkable
class Shared(Protocol):
    """A deed whose effect several actions may want at once: an address is refused for two alerts, say.

    Of two actions with the same effect the second takes over the facts of the first, for what it would see is the
    first one's work; and only the last of them that ends is undone.
    """

    def effect(self, facts: Facts) -> str:
        """Return what the effect is on; "": nothing that another could share."""


@runtime_checkable
class FoundAgain(Protocol):
    """A deed that the next start finds to be done from what the device shows, without the journal.

    So its intent is written and not waited for: it survives the agent, and after a power cut it is not needed.
    """

    is_found_again: bool


@runtime_checkable
class Hastened(Protocol):
    """A deed whose `do` waits for something: of several actions all are begun before the first is waited for."""

    def hasten(self, facts: Facts) -> int:
        """Begin what `do` will wait for; raises nothing. `do` follows, and does it all when this did nothing.

        Returns a descriptor that is readable once it is over, for the caller to close; -1: there is none.

        Called only a moment after `prepare` looked: what a crash interrupted is looked at by `do` first.
        """


@runtime_checkable
class Slow(Protocol):
    """A deed that may take seconds: it reads a whole file, or waits for a helper program or a bus.

    The agent acts on other events meanwhile: its methods run in a thread beside the loop, and share nothing with it
    that changes but files; a vault or a network of the agent's is not theirs. Two of them may run at once: what a kill
    waits for is done in the loop, and what is ordered in a thread of its own. A lock that the loop waits for would
    hold it up as long as a dying disk does; so whatever a deed finds may be gone a moment later.
    """

    is_slow: bool


@runtime_checkable
class Passing(Protocol):
    """A deed with an inverse that holds nothing: it is not kept in force, has no time limit, and `detach` leaves it.

    What `restore` did, for one: a person undoes it by its alert.
    """

    is_passing: bool
