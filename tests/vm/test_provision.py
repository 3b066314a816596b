# SPDX-License-Identifier: Apache-2.0
"""packaging/provision on a Debian that has nothing yet, and the boxes that are provisioned with it."""

import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests.vm.kernels import ROOT, SERIES

VAGRANT = ROOT / "vagrant"
APT_SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources")
TOLD = "/srv/told"
# In the new root: provision it, once more, and say what is installed then.
HOOKS = (
    'mkdir -p "$1/srv/mamplus"',
    f'cp -a "{ROOT}/packaging" "$1/srv/mamplus/"',
    f'chroot "$1" /srv/mamplus/packaging/provision {SERIES[0]}',
    f'chroot "$1" /srv/mamplus/packaging/provision {SERIES[0]} >"$1{TOLD}-again" 2>&1',
    f'chroot "$1" dpkg-query -W -f \'${{db:Status-Status}} ${{Package}}\\n\' >"$1{TOLD}-packages"',
)


def _wanted() -> set[str]:
    """Return the packages that this architecture needs."""
    lines = (ROOT / "packaging" / "debian-packages.txt").read_text().splitlines()
    named = [line.split() for line in lines if line and not line.startswith("#")]
    arch = {"x86_64": "[amd64]", "aarch64": "[arm64]"}[platform.machine()]
    return {name for name, *only in named if not only or only == [arch]}


def _new_root(root: Path, sources: str) -> None:
    hooks = [f"--customize-hook={hook}" for hook in HOOKS]
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *hooks, "bookworm", str(root), "-"]
    done = subprocess.run(command, input=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.timeout(1800)
def test_a_bare_debian_has_all_that_is_needed_after_provisioning(tmp_path: Path) -> None:
    sources = "".join(Path(place).read_text() for place in APT_SOURCES if Path(place).exists())

    _new_root(tmp_path / "root", sources)

    told = tmp_path / "root" / TOLD.lstrip("/")
    lines = Path(f"{told}-packages").read_text().splitlines()
    installed = {line.removeprefix("installed ") for line in lines if line.startswith("installed ")}
    assert _wanted() - installed == set()
    assert any(re.fullmatch(r"linux-image-6\.1\.0-\d+-amd64", name) for name in installed)
    assert "firewalld" not in installed
    assert (tmp_path / "root/srv/mamplus/build/unpacked/firewalld/usr/sbin/firewalld").exists()
    assert Path(f"{told}-again").read_text() == ""  # the second time has nothing to do


def test_the_boxes_of_vagrant_are_described_without_a_fault(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "VAGRANT_HOME": str(tmp_path / "home")}
    environment["VAGRANT_DOTFILE_PATH"] = str(tmp_path / "dot")
    command = ["vagrant", "validate", "--ignore-provider"]

    done = subprocess.run(command, cwd=VAGRANT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "successfully" in done.stdout


def test_there_is_a_box_for_each_kernel_and_the_same_provisioning() -> None:
    written = (VAGRANT / "Vagrantfile").read_text()

    assert all(f'"{series}"' in written for series in SERIES)
    assert "packaging/provision" in written
