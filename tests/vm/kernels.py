# SPDX-License-Identifier: Apache-2.0
"""Stock kernels that packaging/fetch-kernel unpacked below build/vm/kernels/<series>/.

A kernel is what its Debian package holds: boot/vmlinuz-<release>, lib/modules/<release>.
Nothing is fetched here, and nothing of it is installed on this machine.
"""

import lzma
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "vm" / "kernels"
SERIES = ("6.1", "6.12")


class NoKernel(Exception):
    """No kernel of that series is unpacked."""


@dataclass(frozen=True)
class StockKernel:
    """One unpacked kernel; `directory` holds boot/ and lib/modules/."""

    series: str
    release: str  # as `uname -r` says
    directory: Path

    @property
    def image(self) -> Path:
        return self.directory / "boot" / f"vmlinuz-{self.release}"

    @property
    def headers(self) -> Path:
        """What bcc compiles against; not there for every series."""
        return self.directory / "headers" / f"linux-headers-{self.release}"


def find(series: str, cache: Path = CACHE) -> StockKernel:
    """Return the unpacked kernel of `series`; NoKernel says how to get it."""
    images = sorted((cache / series / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise NoKernel(
            f"{len(images)} kernels in {str(cache / series)!r}, want one: run packaging/fetch-kernel {series}"
        )
    return StockKernel(series, images[0].name.removeprefix("vmlinuz-"), cache / series)


def modules(kernel: StockKernel, *names: str) -> list[tuple[str, bytes]]:
    """Return name and content of the modules `names` and of all that they need, in the order to insert them."""
    found: dict[str, bytes] = {}
    for name in names:
        command = ["modprobe", "-d", str(kernel.directory), "-S", kernel.release, "--show-depends", name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for line in told.splitlines():
            if line.startswith("insmod "):  # the others are built in
                path = Path(line.split()[1])
                found.setdefault(path.name.removesuffix(".xz"), _unpacked(path))
    return list(found.items())


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
