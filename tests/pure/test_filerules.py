# SPDX-License-Identifier: Apache-2.0
"""The policy's rules about files: what is taken, and that none of them bricks a device."""

import json
from typing import Any

import pytest

from mamplus_host.errors import ConfigInvalid
from mamplus_host.policy import policy
from mamplus_host.policy.files import OPERATIONS, is_interpreter, is_of_the_system
from mamplus_host.policy.policy import Policy, parse

HASH = "ab" * 32


def parsed(**files: Any) -> Policy:
    return parse(json.dumps({"version": 1, "files": files}).encode())


def test_a_policy_that_says_nothing_of_files_guards_nothing() -> None:
    files = parse(b"{}").files

    assert files.guarded == ()
    assert files.readable == ()


def test_a_guarded_path_is_guarded_against_every_operation_unless_it_says_otherwise() -> None:
    assert parsed(guarded=[{"path": "/etc/shop.conf"}]).files.guarded[0].operations == OPERATIONS


def test_rules_survive_being_signed_and_read_again() -> None:
    before = parsed(
        guarded=[
            {"path": "/etc", "operations": ["write", "unlink"], "writers": [{"package": "dpkg", "children": True}]}
        ],
        readable=[{"path": "/srv/clients", "readers": [{"sha256": HASH}, {"path": "/opt/shop/till"}]}],
    )

    assert parse(policy.encode(before)) == before


@pytest.mark.parametrize(
    "path",
    ["/", "/dev", "/proc", "/proc/sys/kernel", "/sys", "/dev/null", "/run", "/tmp", "/var/tmp"],
)
def test_what_the_whole_device_needs_is_never_guarded(path: str) -> None:
    writers = [{"package": "dpkg", "children": True}]

    with pytest.raises(ConfigInvalid, match="would stop the whole device"):
        parsed(guarded=[{"path": path, "writers": writers}])
    with pytest.raises(ConfigInvalid, match="would stop the whole device"):
        parsed(readable=[{"path": path, "readers": writers}])


@pytest.mark.parametrize(
    "path", ["/usr", "/usr/lib", "/etc", "/var", "/var/lib", "/var/lib/dpkg", "/etc/systemd", "/opt"]
)
@pytest.mark.parametrize("writers", [[], [{"sha256": HASH}]], ids=["nobody", "a hash that an upgrade changes"])
def test_a_tree_that_the_package_manager_or_init_writes_needs_a_writer(path: str, writers: list[Any]) -> None:
    with pytest.raises(ConfigInvalid, match="which the package manager or init writes"):
        parsed(guarded=[{"path": path, "writers": writers}])

    parsed(guarded=[{"path": path, "writers": [{"package": "dpkg", "children": True}]}])


@pytest.mark.parametrize("path", ["/etc/ld.so.preload", "/etc/shop", "/usr/local/share/shop", "/srv/shop"])
def test_a_place_of_ones_own_is_guarded_against_everybody(path: str) -> None:
    parsed(guarded=[{"path": path}])


@pytest.mark.parametrize("path", ["/usr", "/usr/share/shop", "/bin", "/lib/shop", "/etc", "/var", "/home", "/boot"])
def test_a_data_folder_hides_neither_programs_nor_what_they_are_set_up_by(path: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"covers|lies in"):
        parsed(readable=[{"path": path, "readers": [{"sha256": HASH}]}])


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"guardd": []}, "guardd"),
        ({"guarded": [{"path": "etc/shop"}]}, "want an absolute path"),
        ({"guarded": [{"path": "/etc/../shop"}]}, "want it as '/shop'"),
        ({"guarded": [{"path": "/etc/shop/"}]}, "want it as '/etc/shop'"),
        ({"guarded": [{"path": "//etc/shop"}]}, "want it as '/etc/shop'"),
        ({"guarded": [{"path": "/srv/a\0b"}]}, "none of them NUL"),
        ({"guarded": [{"path": "/srv/" + "a" * 4095}]}, "at most 4095 bytes"),
        ({"guarded": [{"path": "/srv/a", "operations": ["read"]}]}, "read"),
        ({"guarded": [{"path": "/srv/a", "operations": []}]}, "operations is empty"),
        ({"guarded": [{"path": "/srv/a", "operations": ["write", "write"]}]}, "names one twice"),
        ({"guarded": [{"path": "/srv/a"}, {"path": "/srv/a"}]}, "'/srv/a' has two rules"),
        ({"guarded": [{"path": f"/srv/{n}"} for n in range(41)]}, "41 of them, want at most 40"),
        ({"guarded": [{"path": "/srv/a", "writers": [{}]}]}, "has none, want exactly one"),
        ({"guarded": [{"path": "/srv/a", "writers": [{"path": "/bin/tar", "package": "tar"}]}]}, "path and package"),
        ({"guarded": [{"path": "/srv/a", "writers": [{"sha256": "AB" * 32}]}]}, "64 lower-case"),
        ({"guarded": [{"path": "/srv/a", "writers": [{"package": "../dpkg"}]}]}, "want a package's name"),
        ({"guarded": [{"path": "/srv/a", "writers": [{"path": "/usr/bin/python3.11"}]}]}, "would name everybody"),
        ({"guarded": [{"path": "/srv/a", "writers": [{"path": "/lib64/ld-linux-x86-64.so.2"}]}]}, "name everybody"),
        ({"readable": [{"path": "/srv/a"}]}, "readers"),
        ({"readable": [{"path": "/srv/a", "readers": []}]}, "readers is empty"),
        ({"readable": [{"path": f"/srv/{n}", "readers": [{"package": "a"}]} for n in range(21)]}, "want at most 20"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused_by_name(files: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigInvalid, match=named):
        parsed(**files)


@pytest.mark.parametrize("name", ["/bin/sh", "/bin/bash", "/usr/bin/python3", "/usr/bin/perl5.36", "/usr/bin/gawk"])
def test_what_runs_whatever_it_is_given_is_told_from_programs(name: str) -> None:
    assert is_interpreter(name)
    assert not is_interpreter("/usr/bin/dpkg")
    assert not is_interpreter("/usr/bin/ssh")


@pytest.mark.parametrize("path", ["/etc/passwd", "/usr/lib/x.so", "/usr", "/var/lib", "/var", "/home", "/lib/x"])
def test_what_everything_opens_is_told_from_a_place_of_ones_own(path: str) -> None:
    assert is_of_the_system(path)
    assert not is_of_the_system("/srv/shop")
    assert not is_of_the_system("/var/lib/shop")
