# SPDX-License-Identifier: Apache-2.0
"""Changing a guarded file: each operation, and each way to it. Acted by tests/kernel/programs/filetry.c."""

from collections.abc import Mapping
from pathlib import Path

from tests.attacks.attack import Expected, Play, attack, everywhere
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen

FAMILY = "guarded files"
WATCHERS = "file integrity monitors: AIDE, Tripwire and OSSEC see it at their next run"
PUT_BACK = everywhere(Outcome.NOTICED) | {"lsm": Outcome.REFUSED}
NOT_SEEN = everywhere(Outcome.NOT_COVERED) | {"lsm": Outcome.REFUSED}
OPENED = everywhere(Outcome.REFUSED)  # without LSM: a fanotify permission mark on its directory
ASKED = "where no LSM hook refuses it, the open is asked about by fanotify"
MAPPED = "a write through a mapping changes neither times nor calls anything; found at the next look at its content"
RESTORED = "where nothing refuses it, the content is put back from the vault"
COVERED = "where nothing refuses it, it is told; nothing can be put back below a mount"
UNCOVERED = "where nothing refuses it, it is told: what lies below is another file"
NO_ROOT = "the path leads elsewhere as a whole, with what would look at it"
SILENT = "the content is as it was, so without LSM nothing is noticed"
WAYS: Mapping[str, tuple[str, Mapping[str, Expected], str]] = {
    "write": ("Writes to it.", OPENED, ASKED),
    "append": ("Appends to it.", OPENED, ASKED),
    "open-truncate": ("Opens it with O_TRUNC.", OPENED, ASKED),
    "truncate": ("Cuts it with truncate(2).", PUT_BACK, RESTORED),
    "unlink": ("Deletes it.", PUT_BACK, RESTORED),
    "rename": ("Renames it away.", PUT_BACK, RESTORED),
    "exchange": ("Exchanges it with a file of the attacker's (RENAME_EXCHANGE).", PUT_BACK, RESTORED),
    "link": ("Makes a second name for it elsewhere.", NOT_SEEN, SILENT),
    "chmod": ("Changes its mode.", PUT_BACK, RESTORED),
    "chown": ("Changes its owner.", PUT_BACK, RESTORED),
    "times": ("Sets its times.", PUT_BACK, RESTORED),
    "xattr": ("Sets an extended attribute.", PUT_BACK, RESTORED),
    "chattr": ("Makes it immutable, so that nobody can put it back.", NOT_SEEN, SILENT),
    "bind-over": ("Mounts another file over it.", PUT_BACK, COVERED),
    "move-over": ("Moves a mount over it (move_mount(2)).", PUT_BACK, COVERED),
    "umount-lazily": ("Unmounts it: it is a mount over another file.", PUT_BACK, UNCOVERED),
    "umount-elsewhere": (
        "As above, from a mount namespace where it is private: what it lies in is shared, so it goes here, too.",
        PUT_BACK,
        UNCOVERED,
    ),
    "move-away": ("Moves that mount elsewhere (move_mount(2)).", PUT_BACK, UNCOVERED),
    "mount-move": ("Moves it with mount(2) and MS_MOVE, which names it as text.", PUT_BACK, UNCOVERED),
    "pivot": ("Gives the namespace another root (pivot_root(2)).", NOT_SEEN, NO_ROOT),
    "proc-root": ("Writes to it below /proc/self/root.", OPENED, ASKED),
    "reopen": ("Opens it with O_PATH, and that again for writing through /proc/self/fd.", OPENED, ASKED),
    "handle": ("Opens it with open_by_handle_at(2): no path at all.", OPENED, ASKED),
    "user-namespace": ("Writes through a bind mount in a user and mount namespace.", OPENED, ASKED),
    "detached-mount": ("Writes through a mount that is in no namespace.", OPENED, ASKED),
    "chroot": ("Writes to it from a chroot.", OPENED, ASKED),
    "overlay": ("Writes through an overlay whose upper layer is its directory.", OPENED, ASKED),
    "uring-open": ("Opens it for writing through io_uring.", OPENED, ASKED),
    "uring-unlink": ("Deletes it through io_uring.", PUT_BACK, RESTORED),
    "uring-rename": ("Renames it through io_uring.", PUT_BACK, RESTORED),
    "held-write": ("Writes to a descriptor that was opened before the rule.", PUT_BACK, RESTORED),
    "held-truncate": ("Cuts it through such a descriptor.", PUT_BACK, RESTORED),
    "held-allocate": ("Punches a hole with fallocate(2).", PUT_BACK, RESTORED),
    "held-sendfile": ("Fills it with sendfile(2).", PUT_BACK, RESTORED),
    "held-copy": ("Fills it with copy_file_range(2).", PUT_BACK, RESTORED),
    "held-splice": ("Fills it with splice(2).", PUT_BACK, RESTORED),
    "held-uring-write": ("Writes to it through io_uring.", PUT_BACK, RESTORED),
    "held-map": ("Maps it shared and writes to the mapping.", NOT_SEEN, MAPPED),
}
OTHERS: Mapping[str, tuple[str, ...]] = {
    "rename": ("away",), "uring-rename": ("away",), "link": ("linked",), "exchange": ("other",),
    "bind-over": ("other",), "move-over": ("other",), "handle": (".",), "user-namespace": ("mount",), "overlay": (".",),
    "move-away": ("other",), "mount-move": ("other",), "pivot": ("mount",),
}  # fmt: skip
ALIKE = ("mount-move", "pivot")  # refused whatever they are about, while something is guarded


def named(way: str) -> str:
    return f"file: {way.replace('held-', 'open file, ').replace('uring-', 'io_uring ')}"


def played(way: str, what: str) -> Play:
    def play(on: Ground, file: Path, out: Path) -> Seen:
        return on.whole_file_attempt(way, file, out, OTHERS.get(way, ()))

    play.__doc__ = what
    return play


for _way, (_what, _expected, _limit) in WAYS.items():
    attack(
        named(_way), FAMILY, _expected, subject="file", payload=_way, bypasses=WATCHERS, limit=_limit, settle_s=8.0,
        is_alike=_way in ALIKE,
    )(played(_way, _what))  # fmt: skip
