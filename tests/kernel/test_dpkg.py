# SPDX-License-Identifier: Apache-2.0
"""Real packages are installed and upgraded by dpkg and apt under the eyes of an agent: what they change is kept.

dpkg, apt and the agent see a directory of ours where dpkg keeps its state, and one as /opt: bind mounts in mount
namespaces of their own. Nothing of this machine is changed.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.config import load
from mamplus_host.control import client
from mamplus_host.kernel import responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.protected.dpkg_list import DpkgList
from story.stage import BIN, wait_for
from tests.kernel import acts

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "packaging" / "hooks"
WAIT_S = 60.0
PROGRAM = Path("/opt/shop/program")
SETTINGS = Path("/opt/shop/settings")
MADE = Path("/opt/shop/made")
# Name below our directory -> what it is to dpkg, apt and the agent.
PLACES = {
    "dpkg": "/var/lib/dpkg", "apt": "/var/lib/apt", "cache": "/var/cache/apt", "log": "/var/log", "opt": "/opt",
    "apt.conf.d": "/etc/apt/apt.conf.d", "dpkg.cfg.d": "/etc/dpkg/dpkg.cfg.d",
}  # fmt: skip


class Machine:
    """A device of its own, as far as dpkg is concerned, and an agent that comes and goes."""

    def __init__(self, home: Path, opt: Path, config: Path) -> None:
        self.home, self._opt, self._config = home, opt, config
        for name in PLACES:
            (home / name).mkdir()
        for name in ("info", "updates", "triggers"):
            (home / "dpkg" / name).mkdir()
        (home / "dpkg" / "status").touch()
        (home / "apt" / "lists" / "partial").mkdir(parents=True)
        (home / "cache" / "archives" / "partial").mkdir(parents=True)
        self.agent: subprocess.Popen[str] | None = None

    def inside(self, *command: object) -> list[str]:
        places = {str(self.home / name): place for name, place in PLACES.items()} | {str(self._opt): "/opt"}
        mounts = "; ".join(f"mount --bind '{ours}' {place}" for ours, place in places.items())
        shell = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{mounts}; exec "$@"', "sh"]
        return [*shell, *map(str, command)]

    def run(self, *command: object) -> None:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def begin(self, *command: object) -> Iterator[None]:
        """Have a command run meanwhile."""
        with subprocess.Popen(self.inside(*command), stdout=subprocess.DEVNULL) as process:
            try:
                yield
            except BaseException:
                process.kill()
                raise
            assert process.wait(WAIT_S) == 0

    def start(self) -> None:
        self.agent = subprocess.Popen(
            self.inside(sys.executable, "-m", "mamplus_host.service", "--config", self._config),
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.agent.stdout is not None
        assert self.agent.stdout.readline().startswith("ready")

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait(WAIT_S)
            self.agent = None

    def call(self, command: str, **arguments: Any) -> Any:
        return client.call(self.home / "run" / "control.sock", command, timeout_s=WAIT_S, **arguments)

    def read(self, path: Path) -> str:
        return (self._opt / path.relative_to("/opt")).read_text()

    def write(self, path: Path, text: str) -> None:
        (self._opt / path.relative_to("/opt")).write_text(text)

    def versions(self, path: Path) -> int:
        """Return how many times it was kept as what it should be."""
        return len([one for one in self.call("vault-versions", path=str(path)) if one["kind"] == "golden"])

    def put_back(self) -> list[str]:
        return [one["summary"] for one in self.call("alerts", limit=1000) if one["rule"] == "protected-file"]

    def package(self, version: int, script: str = "") -> Path:
        """Build a package whose files say which version they are of; its settings are configuration."""
        tree = self.home / f"build-{version}"
        for name, text in {
            "DEBIAN/control": f"Package: shop\nVersion: {version}\nArchitecture: all\nMaintainer: nobody\n"
            "Description: a stand-in\n",
            "DEBIAN/conffiles": f"{SETTINGS}\n",
            "DEBIAN/postinst": f"#!/bin/sh\n{script}\n", "DEBIAN/postrm": f"#!/bin/sh\n{script}\n",
            "opt/shop/program": f"program {version}", "opt/shop/settings": f"settings {version}",
        }.items():  # fmt: skip
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        for name in ("postinst", "postrm"):
            (tree / "DEBIAN" / name).chmod(0o755)
        made = self.home / f"shop_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, made], check=True, capture_output=True)
        return made

    def use_hooks(self) -> None:
        """Install the hooks, with our own command in the place of the installed one."""
        command = self.home / "mamplus"
        command.write_text(f'#!/bin/sh\nexec {BIN / "mamplus"} "$@" --config {self._config}\n')
        command.chmod(0o755)
        for name, place in (("apt-mamplus.conf", "apt.conf.d/90mamplus"), ("dpkg-mamplus.cfg", "dpkg.cfg.d/mamplus")):
            text = (HOOKS / name).read_text()
            assert "/usr/bin/mamplus" in text
            (self.home / place).write_text(text.replace("/usr/bin/mamplus", str(command)))


@contextmanager
def machine(home: Path, opt: Path) -> Iterator[Machine]:
    with acts.own_cgroup() as scope, acts.own_netns() as netns, acts.own_bpffs() as bpffs:
        config = home / "agent.toml"
        config.write_text(
            f'[scope]\ncgroup = "{scope}"\nnetns = ["{netns}"]\n'
            f'[paths]\nstate = "{home / "state"}"\nrun = "{home / "run"}"\nbpffs = "{bpffs / "mamplus"}"\n'
            "[agent]\nself_protection = false\nexamine_after_s = 3600.0\n"
        )
        made = Machine(home, opt, config)
        try:
            made.run("dpkg", "-i", made.package(1))
            made.start()
            yield made
        finally:
            made.stop()
            responder.stop(load(config))
            Kernel.detach(load(config))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Machine]:
    with acts.own_tmpfs() as opt, machine(tmp_path, opt) as made:
        made.call("protect", path="/opt/shop")
        yield made


@pytest.fixture
def blind_device(tmp_path: Path) -> Iterator[Machine]:
    """One whose file system has no handles: who writes there is not told."""
    opt = tmp_path / "ramfs"
    opt.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "mptest", opt], check=True)
    try:
        with machine(tmp_path, opt) as made:
            with suppress(client.Refused):  # it cannot be watched beside what says who writes; from the next start on
                made.call("protect", path="/opt/shop")
            made.stop()
            made.start()
            assert made.call("status")["files"]["tier"] == "inotify"
            yield made
    finally:
        subprocess.run(["umount", "-l", opt], check=True)


def test_what_dpkg_and_apt_upgrade_is_a_new_version_and_not_put_back(device: Machine) -> None:
    device.run("dpkg", "-i", device.package(2))
    wait_for("the upgrade to be kept", lambda: device.versions(PROGRAM) == 2, timeout_s=WAIT_S)
    device.run("apt-get", "-o", "APT::Sandbox::User=root", "-y", "install", device.package(3))
    wait_for("the upgrade by apt to be kept", lambda: device.versions(PROGRAM) == 3, timeout_s=WAIT_S)

    assert (device.read(PROGRAM), device.read(SETTINGS)) == ("program 3", "settings 3")
    assert device.put_back() == []
    device.write(PROGRAM, "spoiled")
    wait_for("what nobody answers for to be put back", lambda: device.read(PROGRAM) == "program 3", timeout_s=WAIT_S)


def test_where_nobody_says_who_writes_the_hooks_have_upgrades_kept_and_nothing_else(blind_device: Machine) -> None:
    device = blind_device
    device.use_hooks()

    device.run("dpkg", "-i", device.package(2))
    assert device.versions(PROGRAM) == 2
    device.run("apt-get", "-o", "APT::Sandbox::User=root", "-y", "install", device.package(3))

    assert device.versions(PROGRAM) == 3
    assert (device.read(PROGRAM), device.read(SETTINGS)) == ("program 3", "settings 3")
    assert device.call("vault-window")["by"] == []
    device.write(PROGRAM, "spoiled")
    wait_for("what nobody answers for to be put back", lambda: device.read(PROGRAM) == "program 3", timeout_s=WAIT_S)


def test_what_dpkg_upgrades_while_no_agent_runs_is_kept_by_the_next_and_what_another_changed_is_not(
    device: Machine,
) -> None:
    device.stop()
    device.run("dpkg", "-i", device.package(2))
    device.write(SETTINGS, "spoiled")

    device.start()

    wait_for("the upgrade to be kept", lambda: device.versions(PROGRAM) == 2, timeout_s=WAIT_S)
    wait_for("the other to be put back", lambda: device.read(SETTINGS) == "settings 1", timeout_s=WAIT_S)
    assert device.read(PROGRAM) == "program 2"
    assert len(device.put_back()) == 1


def test_what_dpkg_upgraded_before_it_was_looked_at_who_wrote_is_kept_and_what_another_wrote_is_not(
    device: Machine,
) -> None:
    assert device.agent is not None
    device.agent.send_signal(signal.SIGSTOP)
    device.run("dpkg", "-i", device.package(2))
    device.write(SETTINGS, "spoiled")
    device.agent.send_signal(signal.SIGCONT)

    wait_for("the upgrade to be kept", lambda: device.versions(PROGRAM) == 2, timeout_s=WAIT_S)
    wait_for("the other to be put back", lambda: device.read(SETTINGS) == "settings 1", timeout_s=WAIT_S)
    assert device.read(PROGRAM) == "program 2"


SCRIPT = f"printf 'made by a script' >{MADE}"


@pytest.fixture
def made(device: Machine) -> Machine:
    """One with a protected file that no package lists."""
    device.write(MADE, "as deployed")
    device.call("protect", path=str(MADE))
    return device


def test_what_a_script_changed_and_a_removal_took_while_no_agent_ran_comes_back(made: Machine) -> None:
    made.stop()
    made.run("dpkg", "-i", made.package(2, SCRIPT))
    assert made.read(MADE) == "made by a script"
    made.start()
    wait_for("what the script made to be put back", lambda: made.read(MADE) == "as deployed", timeout_s=WAIT_S)
    wait_for("what dpkg unpacked to be kept", lambda: made.versions(PROGRAM) == 2, timeout_s=WAIT_S)

    made.stop()
    made.run("dpkg", "-r", "shop")
    made.start()

    wait_for("what was removed to be put back", lambda: made.read(PROGRAM) == "program 2", timeout_s=WAIT_S)
    wait_for("all to be told", lambda: len(made.put_back()) == 3, timeout_s=WAIT_S)  # its script ran once more


def test_what_a_script_changes_and_a_removal_takes_under_the_eyes_of_an_agent_stays_so(made: Machine) -> None:
    seen = made.home / "seen"
    package = made.package(2, f"{SCRIPT}; until [ -e {seen} ]; do sleep 0.1; done")  # dpkg ends when all was seen
    with made.begin("dpkg", "-i", package):
        wait_for("what the script made to be kept", lambda: made.versions(MADE) == 2, timeout_s=WAIT_S)
        seen.touch()
    seen.unlink()
    with made.begin("dpkg", "-r", "shop"):
        wait_for("the removal to be kept", lambda: _is_gone(made), timeout_s=WAIT_S)
        seen.touch()

    made.stop()
    made.start()

    assert _is_gone(made)
    assert (made.read(MADE), made.put_back()) == ("made by a script", [])


def _is_gone(device: Machine) -> bool:
    listed = {one["path"] for one in device.call("vault-list")}
    return not (device._opt / "shop" / "program").exists() and str(PROGRAM) not in listed


def test_only_what_root_wrote_as_dpkg_says_since_it_was_kept_is_the_packages(device: Machine) -> None:
    device.stop()
    device.run("dpkg", "-i", device.package(2))
    program = device._opt / "shop" / "program"
    own = DpkgList(lambda: [str(program)], device.home / "dpkg")
    (listed,) = (device.home / "dpkg" / "info").glob("shop.md5sums")
    listed.write_text(listed.read_text().replace("opt/shop", str(program.parent).lstrip("/")))
    unpacked_s = (device.home / "dpkg" / "info" / "shop.list").stat().st_ctime

    assert own.package_of(str(program), unpacked_s - 1) == "package shop"
    assert own.package_of(str(program), unpacked_s + 1) == ""  # it was kept, and perhaps changed by root, since
    program.chmod(0o666)
    assert own.package_of(str(program), unpacked_s - 1) == ""
    program.chmod(0o644)
    shutil.chown(program, 65534)
    assert own.package_of(str(program), unpacked_s - 1) == ""
    shutil.chown(program, 0)
    program.write_text("spoiled")
    assert own.package_of(str(program), unpacked_s - 1) == ""
