# SPDX-License-Identifier: Apache-2.0
"""A device and the world outside of it, in two network namespaces of their own that a cable joins.

The world answers whatever is sent to it, TCP and UDP, on PORTS, and keeps count of it. On the device a program in a
cgroup of our own does what it is told, and says what it met.
"""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

DEVICE4, DEVICE6 = "192.0.2.1", "2001:db8::1"
HOST4, OTHER4, HOST6, OTHER6 = "192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3"
OUTSIDE = (HOST4, OTHER4, HOST6, OTHER6)
PORT, DNS, NTP, DHCP, ENTERPRISE = 7000, 53, 123, 67, 8443
PORTS = (PORT, DNS, NTP, DHCP, ENTERPRISE)

# Answers everything; one line of JSON with what came, by "protocol port", for each line on stdin.
_WORLD = """
import collections, itertools, json, selectors, socket, sys
addresses, ports = ([word for word in sys.argv[1:] if word.isdigit() == is_port] for is_port in (False, True))
wait, seen = selectors.DefaultSelector(), collections.Counter()
for address, port, kind in itertools.product(addresses, map(int, ports), (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
        one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        if kind == socket.SOCK_STREAM:
            one.listen(512)
        wait.register(one, selectors.EVENT_READ, (kind, port, True))
wait.register(sys.stdin, selectors.EVENT_READ, None)
print("ready", flush=True)
while True:
    for key, _mask in wait.select():
        if key.data is None:
            if not sys.stdin.readline():
                sys.exit()
            print(json.dumps(seen), flush=True)
            continue
        kind, port, is_first = key.data
        try:
            if kind == socket.SOCK_DGRAM:
                data, sender = key.fileobj.recvfrom(2048)
                seen[f"udp {port}"] += 1
                key.fileobj.sendto(data, sender)
            elif is_first:
                one, _ = key.fileobj.accept()
                seen[f"tcp {port}"] += 1
                wait.register(one, selectors.EVENT_READ, (kind, port, False))
            else:
                data = key.fileobj.recv(2048)
                seen[f"said {port}"] += bool(data)
                if data:
                    key.fileobj.send(data)
                else:
                    wait.unregister(key.fileobj); key.fileobj.close()
        except OSError:
            if not is_first:
                wait.unregister(key.fileobj); key.fileobj.close()
"""

# One line of JSON in, one word out: "ok", "silent" where nothing came back, or the name of an errno.
_DEVICE = """
import errno, json, os, socket, sys
kept = {}
print("ready", flush=True)
def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET
def answer(one):
    one.settimeout(0.4)
    try:
        return "ok" if one.recv(16) else "closed"
    except TimeoutError:
        return "silent"
def act(do, address, port, uid):
    if do == "say":
        kept[address, port].send(b"x")
        return answer(kept[address, port])
    kind = socket.SOCK_DGRAM if do in ("udp", "udp-open") else socket.SOCK_STREAM
    if uid:
        os.setegid(uid); os.seteuid(uid)
    try:
        one = socket.socket(family(address), kind)
    finally:
        os.seteuid(0); os.setegid(0)
    one.settimeout(0.4)
    if do == "udp":
        if uid:
            os.seteuid(uid)
        try:
            one.sendto(b"x", (address, port))
        finally:
            os.seteuid(0)
        return answer(one)
    one.connect((address, port))
    kept[address, port] = one
    return "ok"
for line in sys.stdin:
    try:
        said = act(**json.loads(line))
    except TimeoutError:
        said = "silent"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(said, flush=True)
"""

_FORWARDS = """
set -e
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f - <<END
table inet forwards {
    chain out { type filter hook output priority 0; ct state new accept; }
    chain nat { type nat hook postrouting priority 100; ip saddr 198.51.100.2 masquerade; }
}
END
for name in udp_timeout udp_timeout_stream; do echo 600 >/proc/sys/net/netfilter/nf_conntrack_$name; done
"""


class Talker:
    """A program that answers each line with one."""

    def __init__(self, netns: str, source: str, *arguments: str) -> None:
        command = ["ip", "netns", "exec", netns, sys.executable, "-I", "-S", "-c", source, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"

    def ask(self, line: str = "") -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


class World:
    """Both ends."""

    def __init__(self, device: str, outside: str) -> None:
        self.netns = device
        self._outside = Talker(outside, _WORLD, *OUTSIDE, *map(str, PORTS))
        self._device = Talker(device, _DEVICE)

    @property
    def pid(self) -> int:
        """The process on the device."""
        return self._device.process.pid

    def enter(self, cgroup: Path) -> None:
        """Have what the device does from now on be done in `cgroup`."""
        (cgroup / "cgroup.procs").write_text(str(self.pid))

    def act(self, do: str, address: str, port: int = PORT, *, uid: int = 0) -> str:
        """tcp, udp: begin something; say: on the connection that `tcp` or `udp-open` left."""
        return self._device.ask(json.dumps({"do": do, "address": address, "port": port, "uid": uid}))

    def seen(self) -> dict[str, int]:
        """Return what came out there: "tcp PORT", "udp PORT", "said PORT" -> how often."""
        found: dict[str, int] = json.loads(self._outside.ask())
        return found

    def end(self) -> None:
        self._device.end()
        self._outside.end()


class Behind:
    """A machine behind the device, which forwards what it sends."""

    def __init__(self, netns: str, address: str) -> None:
        self.address = address
        self.talker = Talker(netns, _DEVICE)

    def act(self, do: str, address: str, port: int = PORT) -> str:
        """As `World.act`."""
        return self.talker.ask(json.dumps({"do": do, "address": address, "port": port, "uid": 0}))


def behind(world: World, stack: ExitStack) -> Behind:
    """Put a machine behind the device, under the device's address to the world; from then on it tracks connections."""
    name = f"mptest-b{secrets.token_hex(3)}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("-n", world.netns, "link", "add", "d1", "type", "veth", "peer", "name", "b0", "netns", name)
    for netns, link, address in ((world.netns, "d1", "198.51.100.1"), (name, "b0", "198.51.100.2")):
        _dress(netns, link, address)
    _ip("-n", name, "route", "add", "default", "via", "198.51.100.1")
    subprocess.run(["ip", "netns", "exec", world.netns, "sh", "-c", _FORWARDS], check=True, capture_output=True)
    made = Behind(name, "198.51.100.2")
    stack.callback(made.talker.end)
    return made


@contextmanager
def world() -> Iterator[World]:
    """Both namespaces, joined; gone at the end."""
    mark = secrets.token_hex(3)
    device, outside = f"mptest-d{mark}", f"mptest-o{mark}"
    with ExitStack() as stack:
        for name in (device, outside):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        _ip("-n", device, "link", "add", "d0", "type", "veth", "peer", "name", "o0", "netns", outside)
        _dress(device, "d0", DEVICE4, DEVICE6)
        _dress(outside, "o0", *OUTSIDE)
        made = World(device, outside)
        stack.callback(made.end)
        yield made


def _dress(netns: str, link: str, *addresses: str) -> None:
    for one in ("lo", link):
        _ip("-n", netns, "link", "set", one, "up")
    for address in addresses:
        more = ["nodad"] if ":" in address else []
        _ip("-n", netns, "addr", "add", f"{address}/{'64' if ':' in address else '24'}", "dev", link, *more)


def _ip(*arguments: Any) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
