# SPDX-License-Identifier: Apache-2.0
"""A list that cuts the device off in a way that no guard covers: held, forced by a person, rolled back by itself.

The enterprise is behind a DNS name, the list names the network of the name server. Everything is real but the
network, which is the loopback of a namespace of our own; the agent runs inside of the scope, as in production.
"""

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.control import client
from mamplus_host.policy import policy
from mamplus_host.policy.policy import Policy
from story.stage import Stage, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]
BIN = Path(sys.executable).parent
NAME, NAME_SERVER, ENTERPRISE = "mam.dead-man.example", "192.0.2.1", "203.0.113.7"  # addresses that `Stage` makes
DEAD_MAN_S = 30  # the least that a policy may say


class Place:
    """A namespace with a name server, an enterprise behind its name, and a device in a cgroup."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stage = Stage(stack)
        self.questions = 0
        with self.stage.in_netns():
            self._server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._server.bind((NAME_SERVER, 53))
        stack.callback(self._server.close)
        threading.Thread(target=self._answer, daemon=True).start()
        self.resolv = self.stage.root / "resolv.conf"
        self.resolv.write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
        self.cgroup = self.stage.cgroup(f"mamplus-test-{self.stage.tag}")
        self.company = self.stage.root / "enterprise"
        self.config = self.stage.root / "agent.toml"
        home = self.stage.root / "device"
        self.state, self.socket = home / "state", home / "run" / "control.sock"
        bpffs = f"/sys/fs/bpf/mptest-{self.stage.tag}"
        self.config.write_text(
            f'[scope]\ncgroup = "{self.cgroup}"\nnetns = ["{self.stage.netns}"]\n'
            "[agent]\nself_protection = false\n"
            f'[paths]\nstate = "{self.state}"\nrun = "{home}/run"\nbpffs = "{bpffs}"\n'
            "[uplink]\nretry_max_s = 5.0\n"
        )
        stack.callback(self.device, "detach", ok=False)

    def _answer(self) -> None:
        """Answer every question for an IPv4 address with the enterprise's, others with nothing."""
        with contextlib.suppress(OSError):
            while True:
                query, sender = self._server.recvfrom(512)
                self.questions += 1
                end = query.index(b"\0", 12) + 5
                is_a = query[end - 4 : end - 2] == b"\0\1"
                header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, is_a, 0, 0)
                record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(ENTERPRISE)
                self._server.sendto(header + query[12:end] + (record if is_a else b""), sender)

    def inside(self, *words: object) -> list[str]:
        """Return a command line that runs `words` in the namespace, with its name server."""
        script = f'mount --bind {self.resolv} /etc/resolv.conf && exec nsenter --net=/run/netns/{self.stage.netns} "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, words)]

    def run(self, *words: object, ok: bool = True) -> str:
        done = subprocess.run(self.inside(*words), capture_output=True, text=True, timeout=60, check=False)
        assert not ok or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def device(self, *words: object, ok: bool = True) -> str:
        return self.run(BIN / "mamplus", *words, "--config", self.config, ok=ok)

    def enterprise(self, *words: object) -> str:
        return self.run(BIN / "mamplus-enterprise", "--dir", self.company, *words)

    def serve(self) -> None:
        url = f"https://{NAME}:8443"
        self.run(BIN / "mamplus-enterprise", "init", self.company, "--dev", "--url", url)
        words = self.inside(
            BIN / "mamplus-enterprise", "--dir", self.company, "serve", "--listen", f"{ENTERPRISE}:8443"
        )
        process = self.stage.spawn(*words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")

    def start_agent(self) -> None:
        """Start the agent in the scope's own cgroup: the list judges it as it judges everybody."""
        words = self.inside(BIN / "mamplus", "run", "--config", self.config)
        process = self.stage.spawn(*words, cgroup=self.cgroup, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = client.call(self.socket, "status")
        return found

    def alerts(self, rule: str) -> list[dict[str, Any]]:
        return [alert for alert in json.loads(self.enterprise("alerts", "--json")) if alert["rule"] == rule]

    def log(self) -> str:
        return (self.stage.root / "log.txt").read_text(errors="replace")


@pytest.fixture
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


def test_a_list_that_cuts_the_device_off_is_held_and_when_forced_rolled_back_once(place: Place) -> None:
    place.serve()
    place.enterprise("ble", "add", "ip", "198.51.100.9", "--verdict", "block")
    place.enterprise("ble", "publish")
    token = place.enterprise("token", "new").split()[-1]
    place.device("enroll", f"https://{NAME}:8443", "--token", token)
    policy.path_of(place.state).parent.mkdir(parents=True, exist_ok=True)
    policy.keep(place.state, policy.encode(Policy(version=1, dead_man_s=DEAD_MAN_S)))
    place.device("ble", "refresh")
    place.start_agent()
    good = place.status()["ble"]["generation"]
    wait_for("contact", lambda: place.status()["uplink"]["connected"])

    place.enterprise("ble", "add", "cidr", f"{NAME_SERVER}/24", "--verdict", "block")
    place.enterprise("ble", "publish")
    bad = good + 1
    wait_for("the hold", lambda: place.status()["generations"]["held"] != "none", timeout_s=60)
    assert place.status()["ble"]["generation"] == good
    (held,) = wait_for("its alert at the enterprise", lambda: place.alerts("shadow-load"))
    assert held["evidence"]["would_block"]["examples"][0]["by"] == "name server"
    assert f"generation {bad} is held" in place.device("ble", "show")
    waits = place.log().count("exists")

    assert f"enforcing generation {bad}" in place.device("ble", "accept", bad)
    before = place.questions
    wait_for("the rollback", lambda: place.status()["ble"]["generation"] == good, timeout_s=2 * DEAD_MAN_S + 30)

    (alert,) = wait_for("its alert at the enterprise", lambda: place.alerts("dead-man"), timeout_s=60)
    assert (alert["finding"], alert["evidence"]["rolled_back"], alert["generation"]) == ("suspected", bad, good)
    assert place.questions > before, "names are resolved again"
    after = place.status()
    assert (after["generations"]["rolled_back"], after["generations"]["dead_man"]) == ([bad], "off")
    assert after["ble"]["in_kernel"] == good
    notes = [json.loads(line) for path in sorted((place.state / "journal").glob("*.jsonl")) for line in path.open()]
    assert [note["data"]["what"] for note in notes if note["kind"] == "note"] == ["held", "accepted", "rolled back"]
    assert place.log().count(f"enforcing generation {bad},") == 1, "it is not tried again"
    assert place.log().count("exists") == waits, "and the device is not told of it again and again"
