# SPDX-License-Identifier: Apache-2.0
"""nft, ipset and named-checkzone take what is exported for them; in a network namespace of their own."""

import subprocess
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from tests.pure.test_exports import entry, exported

pytestmark = pytest.mark.kernel


def alone(script: str, path: Path) -> str:
    """Run a shell script with FILE set, in a new network namespace that ends with it."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-euc", script], env={"FILE": str(path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.write_text(exported(name)[0])
    return path


def test_nft_takes_the_table_again_and_again_and_drops_what_it_names(tmp_path: Path) -> None:
    path = written(tmp_path, "nftables")

    shown = alone('nft -c -f "$FILE"; nft -f "$FILE"; nft -f "$FILE"; nft list table inet mamplus', path)

    assert "45.66.7.1" in shown or "45.66.0.0/16" in shown  # a host within a network is merged into it
    assert "ip daddr @allow4 accept" in shown
    assert shown.index("@allow4 accept") < shown.index("@block4 counter")
    assert shown.count("@block4_443") == 3


def test_nft_stops_a_connection_to_a_blocked_port_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "nftables"
    path.write_text(exported("nftables", [entry(1, Kind.IP, "127.0.0.2:443")])[0])
    ask = (
        "import socket,sys; s=socket.socket(); s.settimeout(0.5); "
        "sys.exit(s.connect_ex(('127.0.0.2',int(sys.argv[1]))))"
    )

    # Nobody listens: a refusal (111) says that the packet came through, a timeout (11) that it was dropped.
    done = alone(
        f'ip link set lo up; nft -f "$FILE"; for p in 443 444; do python3 -c "{ask}" $p || echo $?; done', path
    )

    assert done.split() == ["11", "111"]


def test_ipset_takes_the_sets_and_answers_for_their_members(tmp_path: Path) -> None:
    path = written(tmp_path, "ipset")
    members = ("block4 45.66.7.1", "block6 2a00:1::5", "port4 45.66.7.2,tcp:443", "port6 2a00::2,udp:53")
    tests = "; ".join(f"ipset test mamplus-{member}" for member in members)
    absent = "; ".join(f"! ipset test mamplus-block4 {one} || exit 1" for one in ("45.66.9.1", "45.67.0.1"))

    alone(f'ipset restore -exist < "$FILE"; ipset restore -exist < "$FILE"; {tests}; {absent}', path)


def test_a_name_server_takes_the_zone(tmp_path: Path) -> None:
    assert "OK" in alone('named-checkzone rpz.example "$FILE"', written(tmp_path, "rpz"))
