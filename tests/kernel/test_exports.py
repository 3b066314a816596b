# SPDX-License-Identifier: Apache-2.0
"""nft, ipset and named-checkzone take what is exported for them; in a network namespace of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.encode import encode
from mamplus_host.ble.endpoint import Endpoint, endpoint_value
from mamplus_host.ble.entry import Entry, Kind, address_key
from mamplus_host.ble.format import Generation
from mamplus_host.verdicts import Verdict
from tests.pure.test_exports import NESTED, entry, exported

pytestmark = pytest.mark.kernel


def alone(script: str, path: Path, stdin: str = "") -> str:
    """Run a shell script with FILE set, in a new network namespace that ends with it."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-euc", script], env={"FILE": str(path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True, text=True, check=False, timeout=60, input=stdin,
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

    assert "45.66.0.0-45.66.8.255" in shown  # a host within a network is merged into it, what is allowed is cut out
    assert "ip daddr @allow4 accept" in shown
    assert shown.count("@block4_tcp_443") == 3


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


# Sends a header without a checksum for each [address, protocol, port] of stdin: what the output chain drops is EPERM.
_SEND = """
import json, socket, struct, sys
said = []
for address, protocol, port in json.load(sys.stdin):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    header = struct.pack("!HHHHIBB", 40000, port, 20, 0, 0, 0x50, 2).ljust(20, b"\\0")
    with socket.socket(family, socket.SOCK_RAW, protocol) as one:
        try:
            one.sendto(header, (address, 0))
            said.append(False)
        except PermissionError:
            said.append(True)
print(json.dumps(said))
"""
_ROUTED = "ip link set lo up; ip route add default dev lo; ip -6 route add default dev lo"
_PROBES = [
    (address, protocol, port)
    for address in (
        "45.66.7.1", "45.66.7.9", "45.66.8.1", "45.66.9.1", "45.66.9.7", "45.66.9.8", "45.66.9.9", "45.66.20.1",
        "45.67.0.1", "46.1.2.3", "2a00:1::5", "2a00:1:2::5", "2a00:1:2:3::5", "2a00:9::5",
    )
    for protocol, port in ((6, 443), (17, 443), (6, 80), (17, 53), (6, 6667), (17, 6667), (6, 8080), (17, 8080))
]  # fmt: skip


def of_devices(entries: list[Entry]) -> list[bool]:
    """Which of _PROBES a device refuses."""
    made = Generation(encode(entries, generation=1, created_s=0))
    return [
        verify(made, *endpoint_value(Endpoint(address_key(address), 128, *rest)), now_s=1).verdict is Verdict.BLOCK
        for address, *rest in _PROBES
    ]


def of_tool(prepare: str, path: Path) -> list[bool]:
    script = f"{_ROUTED}; {prepare}; exec {sys.executable} -c '{_SEND}'"
    return list(json.loads(alone(script, path, json.dumps(_PROBES))))


def test_nft_decides_of_every_probe_as_devices_do(tmp_path: Path) -> None:
    path = tmp_path / "nftables"
    path.write_text(exported("nftables", NESTED)[0])

    assert dict(zip(_PROBES, of_tool('nft -f "$FILE"', path), strict=True)) == dict(
        zip(_PROBES, of_devices(NESTED), strict=True)
    )


def test_ipset_with_rules_in_their_order_decides_of_every_probe_as_devices_do(tmp_path: Path) -> None:
    path = tmp_path / "ipset"
    text, about = exported("ipset", NESTED)
    path.write_text(text)
    left = {Kind.PORT: "port", Kind.IP: "protocol without port"}
    said = [one for one in NESTED if one.kind is not Kind.PORT and ":*/" not in one.value]
    rules = "; ".join(
        f"{tables} -A OUTPUT -m set --match-set mamplus-{name}{version} {where} -j {target}"
        for tables, version in (("iptables", 4), ("ip6tables", 6))
        for name, where, target in (
            ("allowport", "dst,dst", "ACCEPT"), ("port", "dst,dst", "DROP"), ("block", "dst", "DROP"),
        )
    )  # fmt: skip

    assert dict(zip(_PROBES, of_tool(f'ipset restore -exist < "$FILE"; {rules}', path), strict=True)) == dict(
        zip(_PROBES, of_devices(said), strict=True)
    )
    assert len(NESTED) - len(said) == sum(about.left_out.values()) == sum(about.left_out[why] for why in left.values())


def test_ipset_takes_the_sets_and_answers_for_their_members(tmp_path: Path) -> None:
    path = written(tmp_path, "ipset")
    members = ("block4 45.66.7.1", "block6 2a00:1::5", "port4 45.66.7.2,tcp:443", "port6 2a00::2,udp:53")
    tests = "; ".join(f"ipset test mamplus-{member}" for member in members)
    absent = "; ".join(f"! ipset test mamplus-block4 {one} || exit 1" for one in ("45.66.9.1", "45.67.0.1"))

    alone(f'ipset restore -exist < "$FILE"; ipset restore -exist < "$FILE"; {tests}; {absent}', path)


def test_a_name_server_takes_the_zone(tmp_path: Path) -> None:
    assert "OK" in alone('named-checkzone rpz.example "$FILE"', written(tmp_path, "rpz"))
