# SPDX-License-Identifier: Apache-2.0
"""Which paths are meant by one that a person names, and which of them the vault keeps.

Journey: vault, protecting -> [vault/paths] -> file system.
"""

import os
import stat
from pathlib import Path

from mamplus_host.errors import VaultError
from mamplus_host.executor.vault import files as vault_files

MAX_PROTECTED = 20_000  # files, directories and links


def is_at_or_below(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree.rstrip("/") + "/")


def canonical(path: Path) -> str:
    """Return `path` with the links of its directories resolved; its last name is not followed."""
    whole = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))


def entries_of(path: Path) -> list[str]:
    """Return the file, or the directory and all directories, files and links in it, above before below."""
    wanted = canonical(path)
    try:
        mode = os.stat(wanted, follow_symlinks=False).st_mode
    except OSError as error:
        raise VaultError(f"cannot protect {str(path)!r}: {error.strerror}") from None
    if stat.S_ISREG(mode):
        return [wanted]
    if stat.S_ISLNK(mode):
        raise VaultError(f"{str(path)!r} is a link; protect what it points to: {os.path.realpath(wanted)!r}")
    if not stat.S_ISDIR(mode):
        raise VaultError(f"{str(path)!r} is neither a file nor a directory")
    found = [wanted]
    for directory, below, names in os.walk(wanted):
        found += filter(is_kept, (os.path.join(directory, name) for name in sorted([*below, *names])))
        if len(found) > MAX_PROTECTED:
            raise VaultError(f"{str(path)!r} holds more than {MAX_PROTECTED} files; protect a smaller part")
    return found


def is_kept(path: str) -> bool:
    """Say whether the vault keeps what is at `path`: a file, directory or link that is not our own."""
    if os.path.basename(path).startswith((vault_files.TEMPORARY, vault_files.ASIDE)):
        return False
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False  # removed meanwhile
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
