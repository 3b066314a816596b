# SPDX-License-Identifier: Apache-2.0
"""The virtual machine's parts, without booting one."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.vm import initramfs
from tests.vm.kernels import ROOT, NoKernel, find
from tests.vm.machine import MachineFailed, require_seen

FETCH = ROOT / "packaging" / "fetch-kernel"


def _unpacked(archive: bytes, into: Path) -> None:
    subprocess.run(["busybox", "cpio", "-i", "-d"], input=archive, cwd=into, check=True, capture_output=True)


def test_an_archive_unpacks_to_what_it_was_made_of(tmp_path: Path) -> None:
    files = [("init", b"#!/busybox sh\n"), ("modules/deep/9p.ko", b"\x7fELF\0"), ("modules/order", b"")]

    _unpacked(initramfs.archive(files), tmp_path)

    assert [(tmp_path / path).read_bytes() for path, _content in files] == [content for _path, content in files]
    assert os.access(tmp_path / "init", os.X_OK)


def test_a_clone_that_no_guest_would_see_is_refused_before_the_boot() -> None:
    with pytest.raises(MachineFailed, match=r"/tmp/clone lies below /tmp.*clone it elsewhere"):
        require_seen(Path("/tmp/clone"))


def test_a_kernel_that_is_not_unpacked_is_asked_for_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NoKernel, match=r"run packaging/fetch-kernel 6\.12"):
        find("6.12", tmp_path)


def _fetch(tmp_path: Path, *series: str, names: str = "", download: str = "exit 1") -> subprocess.CompletedProcess[str]:
    """Run fetch-kernel with an archive that knows `names` and downloads as the script `download` does."""
    tools = {"FETCH_APT_CACHE": f"printf '%s\\n' {names}", "FETCH_APT_GET": download}
    for variable, script in tools.items():
        (tmp_path / variable).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / variable).chmod(0o755)
    environment = {variable: str(tmp_path / variable) for variable in tools}
    environment |= {"FETCH_KERNELS": str(tmp_path / "kernels"), "PATH": os.environ["PATH"]}
    return subprocess.run([FETCH, *series], env=environment, capture_output=True, text=True, check=False)


def test_an_archive_without_the_kernel_is_said_with_the_way_out(tmp_path: Path) -> None:
    done = _fetch(tmp_path, "6.1", names="linux-image-6.1.0-40-cloud-amd64 linux-image-5.10.0-3-amd64")

    assert done.returncode == 1
    assert "no kernel named like linux-image-6" in done.stderr
    assert "apt sources" in done.stderr


def test_the_newest_kernel_of_the_series_is_fetched(tmp_path: Path) -> None:
    versions = ("6.1.0-9", "6.1.0-56", "6.1.0-56-rt", "6.12.9+deb12")

    done = _fetch(tmp_path, "6.1", names=" ".join(f"linux-image-{version}-amd64" for version in versions))

    assert done.stdout == "fetch-kernel: 6.1.0-56-amd64\n"
    assert "apt-get download linux-image-6.1.0-56-amd64 failed" in done.stderr
    assert not list((tmp_path / "kernels").iterdir())  # nothing half done is left


def _unpacked_kernel(tmp_path: Path) -> Path:
    """Return the directory of an old 6.1 that is there already."""
    image = tmp_path / "kernels" / "6.1" / "boot" / "vmlinuz-6.1.0-1-amd64"
    image.parent.mkdir(parents=True)
    image.touch()
    return tmp_path / "kernels" / "6.1"


def test_a_kernel_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (_unpacked_kernel(tmp_path) / "headers").mkdir()

    done = _fetch(tmp_path, "6.1", names="linux-image-6.1.0-56-amd64")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_headers_are_fetched_for_the_release_that_is_there(tmp_path: Path) -> None:
    kernel = _unpacked_kernel(tmp_path)
    download = 'for name; do :; done; mkdir -p "d/usr/src/$name" d/DEBIAN; printf "Package: x\\nVersion: 1\\n'
    download += 'Architecture: all\\nMaintainer: x\\nDescription: x\\n" >d/DEBIAN/control; '
    download += 'dpkg-deb -b d "${name}_1.deb" >/dev/null; rm -r d'

    done = _fetch(tmp_path, "6.1", names="linux-image-6.1.0-56-amd64", download=download)

    assert (done.returncode, done.stdout, done.stderr) == (0, "fetch-kernel: headers of 6.1.0-1-amd64\n", "")
    assert sorted(path.name for path in (kernel / "headers").iterdir()) == [
        "linux-headers-6.1.0-1-amd64",
        "linux-headers-6.1.0-1-common",
    ]


def test_an_unknown_series_is_refused_by_name(tmp_path: Path) -> None:
    done = _fetch(tmp_path, "5.10")

    assert done.returncode == 1
    assert "'5.10' is not known" in done.stderr
