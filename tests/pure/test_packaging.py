# SPDX-License-Identifier: Apache-2.0
"""What packaging/ promises: clear refusals, one full example, locks that lock, a unit that systemd takes."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mamplus_host import config

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
PROGRAMS = Path(sys.executable).parent
TOOLS = ("id", "sh")


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Return the surroundings of a machine on which nothing is missing; tests take one thing away."""
    (tmp_path / "sys/kernel/btf").mkdir(parents=True)
    (tmp_path / "sys/kernel/btf/vmlinux").touch()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").touch()
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "bin/apt-get").symlink_to("/bin/true")
    return {"CHECK_UID": "0", "CHECK_SYS": str(tmp_path / "sys"), "PATH": str(tmp_path / "bin")}


def check(machine: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PACKAGING / "check-machine"], check=False, env=machine, capture_output=True, text=True, timeout=30
    )


def refusal(machine: dict[str, str]) -> str:
    result = check(machine)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_a_machine_that_has_everything_is_taken_in_silence(machine: dict[str, str]) -> None:
    result = check(machine)

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_user_other_than_root_is_told_to_use_sudo(machine: dict[str, str]) -> None:
    assert re.search("user 1000, want root.*sudo", refusal(machine | {"CHECK_UID": "1000"}))


def test_a_machine_without_apt_is_told_where_the_package_list_is(machine: dict[str, str]) -> None:
    Path(machine["PATH"], "apt-get").unlink()

    assert "packaging/debian-packages.txt" in refusal(machine)


def test_a_machine_without_cgroup_v2_is_told_how_to_mount_it(machine: dict[str, str]) -> None:
    Path(machine["CHECK_SYS"], "fs/cgroup/cgroup.controllers").unlink()

    assert "mount -t cgroup2" in refusal(machine)


def test_a_hybrid_hierarchy_has_cgroup_v2_too(machine: dict[str, str]) -> None:
    cgroup = Path(machine["CHECK_SYS"], "fs/cgroup")
    (cgroup / "unified").mkdir()
    (cgroup / "cgroup.controllers").rename(cgroup / "unified/cgroup.controllers")

    assert check(machine).returncode == 0


def test_a_kernel_without_btf_is_no_reason_to_refuse(machine: dict[str, str]) -> None:
    Path(machine["CHECK_SYS"], "kernel/btf/vmlinux").unlink()

    assert check(machine).returncode == 0


def test_the_example_configuration_is_the_defaults() -> None:
    assert config.load(PACKAGING / "agent.toml.example") == config.Config()


def keys(model: Any) -> dict[str, Any]:
    """Return the keys that a table takes, those of its tables below them."""
    fields = {field.name: field.type for field in msgspec.structs.fields(model)}
    return {name: keys(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None
            for name, kind in fields.items()}  # fmt: skip


def test_the_example_configuration_shows_every_key() -> None:
    shown = tomllib.loads((PACKAGING / "agent.toml.example").read_text())

    assert {table: dict.fromkeys(values) for table, values in shown.items()} == keys(config.Config)


def locked() -> dict[str, str]:
    """Return what requirements.lock pins: name -> everything that it says about it."""
    text = (PACKAGING / "requirements.lock").read_text()
    parts = re.split(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_locked_package_has_a_version_and_a_hash() -> None:
    packages = locked()

    assert packages
    whole = re.compile(r"[0-9][^\s]*( ; [^\\\n]+)? \\\n +--hash=sha256:")  # a marker: not for every machine
    assert [name for name, text in packages.items() if not whole.match(text)] == []


def test_the_lock_holds_all_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["enterprise"] + extras["test"]
    names = {re.split(r"[<>=!~\[ ;]", line)[0].lower().replace("_", "-") for line in wanted}

    assert names - set(locked()) == set()


def test_no_lock_or_package_list_names_an_address() -> None:
    texts = {path.name: path.read_text() for path in PACKAGING.iterdir() if path.suffix in {".lock", ".in", ".txt"}}

    assert len(texts) == 4
    assert [name for name, text in texts.items() if "://" in text or "--index" in text] == []


def test_a_package_whose_service_is_not_to_run_here_is_unpacked_once_and_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "packaging").mkdir()
    shutil.copy(PACKAGING / "provision", tmp_path / "packaging/provision")
    (tmp_path / "packaging/debian-packages.txt").write_text("own-service [unpacked]\n")
    (tmp_path / "tree/DEBIAN").mkdir(parents=True)
    (tmp_path / "tree/DEBIAN/control").write_text(
        "Package: own-service\nVersion: 1\nArchitecture: all\nMaintainer: nobody <a@b.example>\nDescription: one\n"
    )
    (tmp_path / "tree/usr/sbin").mkdir(parents=True)
    (tmp_path / "tree/usr/sbin/own-service").touch()
    (tmp_path / "apt-get").write_text('#!/bin/sh\n[ "$1" = download ] && exec dpkg-deb -b "$DEBS/tree" .\n')
    (tmp_path / "apt-get").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin", "DEBS": str(tmp_path / "none")}

    def provision(**more: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "packaging/provision"]
        return subprocess.run(command, check=False, env=environment | more, capture_output=True, text=True, timeout=60)

    assert provision().returncode != 0
    assert list((tmp_path / "build/unpacked").iterdir()) == []
    assert provision(DEBS=str(tmp_path)).returncode == 0
    assert [path.name for path in (tmp_path / "build/unpacked").iterdir()] == ["own-service"]
    assert (tmp_path / "build/unpacked/own-service/usr/sbin/own-service").exists()
    again = provision()
    assert (again.returncode, again.stdout + again.stderr) == (0, "")


def test_make_names_its_verbs_one_a_line() -> None:
    help_text = subprocess.run(
        ["make", "-C", ROOT, "-s"], capture_output=True, text=True, check=True, timeout=30
    ).stdout

    verbs = [line.split()[1] for line in help_text.splitlines()]
    assert verbs[:4] == ["help", "build", "run", "test"]
    assert {"test-quick", "lint", "bench", "wheel", "clean"} <= set(verbs)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "mamplus.service"
    unit.write_text((PACKAGING / "systemd/mamplus.service").read_text().replace("/usr/bin/mamplus", "/bin/true"))

    result = subprocess.run(
        ["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True, timeout=60
    )

    assert (result.returncode, result.stderr) == (0, "")


def test_every_capability_of_the_unit_is_justified_in_it() -> None:
    text = (PACKAGING / "systemd/mamplus.service").read_text()
    granted = set(re.findall(r"CAP_\w+", text.partition("CapabilityBoundingSet=")[2].splitlines()[0]))
    reasons = "\n".join(line for line in text.splitlines() if line.startswith("# CAP_"))

    assert granted
    assert granted == set(re.findall(r"CAP_\w+", reasons.replace("ask for CAP_SYS_ADMIN", "")))


def allowed_calls(names: list[str]) -> set[str]:
    """Return the system calls of a SystemCallFilter: sets are taken apart as systemd does."""
    found = {name for name in names if not name.startswith("@")}
    for name in set(names) - found:
        shown = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True)
        found |= allowed_calls([line.strip() for line in shown.stdout.splitlines()[1:] if "#" not in line])
    return found


def test_the_unit_allows_every_system_call_that_our_programs_name() -> None:
    text = (PACKAGING / "systemd/mamplus.service").read_text()
    allowed = allowed_calls(" ".join(re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)).split())
    sources = (PACKAGING.parent / "kernel_probes/native").glob("*.[ch]")
    named = set(re.findall(r"\bSYS_(\w+)", "\n".join(source.read_text() for source in sources)))

    assert "pidfd_getfd" in named
    assert named | {"ptrace", "unshare", "setns", "mount"} <= allowed


def test_the_unit_leaves_the_responder_alive_when_the_agent_stops() -> None:
    lines = (PACKAGING / "systemd/mamplus.service").read_text().splitlines()

    assert {"KillMode=process", "Type=notify", "ProtectSystem=strict"} <= set(lines)


@pytest.mark.parametrize("name", ["build", "check-machine", "lock", "install-completion"])
def test_every_script_can_be_run_as_it_is(name: str) -> None:
    assert os.access(PACKAGING / name, os.X_OK)


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the /usr/share that `install-completion` filled."""
    target = tmp_path_factory.mktemp("completion")
    environment = {**os.environ, "DESTDIR": str(target), "PROGRAMS": str(PROGRAMS)}
    subprocess.run([PACKAGING / "install-completion"], env=environment, check=True, timeout=60)
    return target / "usr/share"


def test_completion_is_installed_for_three_shells(completions: Path) -> None:
    files = {str(path.relative_to(completions)) for path in completions.rglob("*") if path.is_file()}

    assert files == {
        "bash-completion/completions/mamplus",
        "zsh/site-functions/_mamplus",
        "fish/vendor_completions.d/mamplus.fish",
        "bash-completion/completions/mamplus-enterprise",
        "zsh/site-functions/_mamplus_enterprise",
        "fish/vendor_completions.d/mamplus-enterprise.fish",
    }


@pytest.mark.parametrize(
    ("program", "words", "wanted"),
    [
        ("mamplus", "stat", ["status"]),
        ("mamplus-enterprise", "ble hist", ["history"]),
        ("mamplus-enterprise", "ble import url", ["urlhaus"]),
        ("mamplus-enterprise", "ble import plain x --repl", ["--replace"]),
    ],
)
def test_bash_completes_the_beginning_of_a_word(completions: Path, program: str, words: str, wanted: list[str]) -> None:
    name = program.replace("-", "_")
    script = f"""
        source "$0"
        COMP_WORDS=({program} {words}) COMP_CWORD={len(words.split())}
        _{name}_completion {program}
        echo "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    command = ["bash", "-c", script, str(completions / f"bash-completion/completions/{program}")]

    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)

    assert result.stdout.split() == wanted
