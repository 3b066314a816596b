# SPDX-License-Identifier: Apache-2.0
"""Where a program that was started lies: the path after symbolic links, as the kernel names it.

The event has what execve was given, which may be relative or a link. /proc/PID/exe has the kernel's own name,
as long as the process lives and has not started another program; that is told by the inode.
"""

import os

from mamplus_host.events import Exec
from mamplus_host.kernel import layout

_DELETED = " (deleted)"


def program_path(event: Exec) -> str:
    """Return the path of the program of `event`, undecodable bytes as surrogates; "" when nobody can tell any more."""
    link = f"/proc/{event.head.tgid}/exe"
    try:
        stat = os.stat(link)
        path = os.readlink(link)
    except OSError:
        return _resolved(event)
    if stat.st_ino != event.file.ino:
        return _resolved(event)
    is_deleted = not stat.st_nlink or event.head.flags & layout.F_DELETED
    return path.removesuffix(_DELETED) if is_deleted else path


def _resolved(event: Exec) -> str:
    """Resolve what execve was given; of a relative path the directory is gone with the process."""
    if not event.path.startswith("/"):
        return ""
    try:
        return os.path.realpath(event.path)
    except (OSError, ValueError):
        return ""
