# SPDX-License-Identifier: Apache-2.0
"""What a command writes for the enterprise alone."""

from pathlib import Path

from mamplus_host.cli.state import CLI
from mamplus_host.errors import EnrollRefused, NotPossible


def write_sealed(out: Path, content: bytes) -> None:
    """Write `content` to the new file `out`, sealed; NotPossible when something is there already."""
    from mamplus_host.ble.trust_memory import seal_key
    from mamplus_host.files import write_whole
    from mamplus_host.sealed import seal

    if out.exists():
        raise NotPossible(f"{str(out)!r} is there already; name another file")
    try:
        key = seal_key(CLI.config.state)
    except FileNotFoundError:
        key = None
    if key is None:
        raise EnrollRefused("no enterprise is known to encrypt for; enroll, or get a newer list: mamplus ble load")
    write_whole(out, seal(content, key), mode=0o644)
