# SPDX-License-Identifier: Apache-2.0
"""Packs and unpacks contents with zstd, in a process that ends: the library and its windows never stay in the agent.

Journey: vault/objects -> [vault/pack] -> disk.

    python -m mamplus_host.executor.vault.pack pack SUFFIX FILE...     a line a file: the bytes it takes now
    python -m mamplus_host.executor.vault.pack unpack FILE             to stdout, which is a file

Packing pays when a quarter of the bytes is saved. A frame carries a checksum of the content, so a damaged one is an
error and not a wrong file.
"""

import os
import subprocess
import sys
from pathlib import Path

import mamplus_host
from mamplus_host.files import sync_directory

LEVEL = 6
WORTH = 0.75  # of the plain size, at most
MIN_BYTES = 4096  # below, a block of the file system is saved at best
TIMEOUT_S = 600.0
_CHUNK_BYTES = 1 << 20


class Packing:
    """A process that packs `files`, each beside itself with `suffix`; the agent goes on meanwhile."""

    def __init__(self, files: dict[str, Path], suffix: str) -> None:
        self._names = list(files)
        self._process = subprocess.Popen(
            _command(["pack", suffix, *map(str, files.values())]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=_environment(),
        )  # fmt: skip

    def result(self, *, wait: bool = False) -> dict[str, int] | None:
        """Return the bytes that each takes now, -1 where nothing came of it; None while it goes on."""
        if not wait and self._process.poll() is None:
            return None
        out, _nothing = self._process.communicate(timeout=TIMEOUT_S)  # a line of 12 bytes a file: the pipe holds it
        return dict.fromkeys(self._names, -1) | dict(zip(self._names, map(int, out.split()), strict=False))

    def end(self) -> None:
        """End it, also before its time: what is half packed is removed by the next start."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def unpack_file(packed: Path, target_fd: int) -> None:
    """Write the content of `packed` to `target_fd`; OSError when it is damaged."""
    try:
        done = subprocess.run(
            _command(["unpack", str(packed)]), stdin=subprocess.DEVNULL, stdout=target_fd, stderr=subprocess.PIPE,
            env=_environment(), timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"unpacking took more than {TIMEOUT_S:g} s and was ended") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(f"the process that unpacks ended with {done.returncode} and said {said[:200]!r}")


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "mamplus_host.executor.vault.pack", *words]


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(mamplus_host.__file__).parent.parent), "LANG": "C.UTF-8"}


def _pack(path: Path, suffix: str) -> int:
    """Return the bytes that the content takes now: packed when that pays; -1 when the disk did not take it."""
    import zstandard

    plain = path.stat().st_size
    if plain < MIN_BYTES:
        return plain
    beside = path.with_name(f".new-{path.name}")
    try:
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
        with path.open("rb") as source, beside.open("xb") as target:
            compressor.copy_stream(source, target, size=plain, read_size=_CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())
        packed = beside.stat().st_size
        if packed > plain * WORTH:
            return plain
        os.chmod(beside, 0o400)
        beside.replace(path.with_name(path.name + suffix))
        sync_directory(path.parent)
        path.unlink()
        return packed
    except OSError:
        return -1
    finally:
        beside.unlink(missing_ok=True)


def _unpack(path: Path) -> None:
    import zstandard

    with path.open("rb") as source:
        zstandard.ZstdDecompressor().copy_stream(source, sys.stdout.buffer, write_size=_CHUNK_BYTES)
        sys.stdout.buffer.flush()


def main() -> None:
    verb, *words = sys.argv[1:]
    if verb == "pack":
        os.nice(19)
        for name in words[1:]:
            print(_pack(Path(name), words[0]), flush=True)
    else:
        _unpack(Path(words[0]))


if __name__ == "__main__":
    main()
