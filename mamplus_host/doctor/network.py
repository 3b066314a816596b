# SPDX-License-Identifier: Apache-2.0
"""Trials of the network controls. Addresses are of the loopback range: should a refusal fail, nothing leaves."""

import secrets
import subprocess
import sys

import msgspec

from mamplus_host.config import Scope
from mamplus_host.doctor.place import CANARY4, CANARY6, CANARY_NAME, EPERM, OPEN4, RUN_S, Place
from mamplus_host.doctor.trial import Found, NotEnforced
from mamplus_host.executor.network import netfilter

# Sends a packet to an address that nobody lists, then to the listed one; says what became of each.
_SAY = """
import socket, sys
for host in sys.argv[1:]:
    inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inbox.bind((host, 5353))
    inbox.settimeout(0.5)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"canary", (host, 5353))
        inbox.recv(16)
        print("open")
    except (PermissionError, TimeoutError):
        print("dropped")
"""


def addresses(place: Place) -> Found:
    """connect and sendto a listed address: IPv4, IPv6, and IPv4 in IPv6's clothes."""
    hosts = (CANARY4, f"::ffff:{CANARY4}", CANARY6)
    todo = [[how, host] for how in ("connect", "send") for host in hosts]
    for (how, host), met in zip(todo, place.act(*todo), strict=True):
        if met != EPERM:
            raise NotEnforced(f"{how} to {host} was not refused ({met})")
    if place.act(["send", OPEN4]) == [EPERM]:
        raise NotEnforced("an address that nobody lists was refused")
    return Found("cgroup", "connect and sendto: EPERM, IPv4, IPv6 and v4-mapped")


def names(place: Place) -> Found:
    """A DNS query for a sub-domain of a listed name."""
    (met,) = place.act(["ask-name", OPEN4, f"www.{CANARY_NAME}"])
    if met != EPERM:
        raise NotEnforced(f"a query for a listed name left ({met})")
    return Found("cgroup", "a query for a sub-domain of a listed name: EPERM")


def packets(place: Place) -> Found:
    """Packets of sockets, whoever opened them and when: in a network namespace of its own."""
    name = f"mpdoctor-{secrets.token_hex(3)}"
    scope = Scope(cgroup=place.config.scope.cgroup, netns=(name,))
    config = msgspec.structs.replace(place.config, scope=scope)
    assert place.kernel is not None
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, capture_output=True)
        netfilter.apply(config, place.kernel.packet_program_path("in"), place.kernel.packet_program_path("out"))
        say = ["ip", "netns", "exec", name, sys.executable, "-I", "-S", "-c", _SAY, OPEN4, CANARY4]
        said = subprocess.run(say, capture_output=True, text=True, timeout=RUN_S, check=True).stdout.split()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)  # with the rules in it
    if said != ["open", "dropped"]:
        raise NotEnforced(f"packets to an open and to a listed address were {said}, want ['open', 'dropped']")
    return Found("iptables", "a packet to a listed address was dropped, another went through")
