# SPDX-License-Identifier: Apache-2.0
"""By which network interfaces the enterprise is reached, so that no action takes the last of them away.

Journey: radio, usb -> [roads] -> routing tables (ip(8)), sysfs.

A road is an interface that a route to an address of the enterprise leads through now, or a default route could take:
one that is up and has a carrier. Whether the enterprise really answers there is not tried.
"""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from mamplus_host.errors import ActionFailed

_IP_S = 5.0


def interfaces(addresses: Iterable[str], *, sys_root: Path = Path("/sys")) -> set[str]:
    """Return the names of the interfaces through which `addresses` can be reached; loopback is none."""
    found: set[str] = set()
    for address in addresses:
        found |= _devices("route", "get", address)
    for family in ("-4", "-6"):
        found |= _devices(family, "route", "show", "default")
    return {name for name in found if name != "lo" and is_up(name, sys_root)}


def is_up(name: str, sys_root: Path = Path("/sys")) -> bool:
    """Whether the interface is up and, where it knows, has a carrier."""
    try:
        return (sys_root / "class/net" / name / "operstate").read_text().strip() in ("up", "unknown")
    except OSError:
        return False


def device_of(name: str, sys_root: Path = Path("/sys")) -> Path:
    """Return the interface's place in the tree of devices."""
    return (sys_root / "class/net" / name).resolve()


def kind_of(name: str, sys_root: Path = Path("/sys")) -> str:
    """Return wlan, wwan or bluetooth for an interface that is a radio's, "" for others."""
    try:
        lines = (sys_root / "class/net" / name / "uevent").read_text().splitlines()
    except OSError:
        return ""
    said = dict(line.partition("=")[::2] for line in lines).get("DEVTYPE", "")
    return said if said in ("wlan", "wwan", "bluetooth") else ""


def _devices(*arguments: str) -> set[str]:
    try:
        done = subprocess.run(
            ["ip", "-j", *arguments], capture_output=True, timeout=_IP_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ActionFailed(f"cannot ask for the routes: {error}; iproute2 is needed") from None
    if done.returncode:
        return set()  # no route to it, or no such family
    return {str(row["dev"]) for row in json.loads(done.stdout or b"[]") if "dev" in row}
