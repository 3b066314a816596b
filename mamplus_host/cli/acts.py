# SPDX-License-Identifier: Apache-2.0
"""`mamplus cut`, `refuse`, `lock`, `radio`, `usb`, `mount`, `wipe`: a person has the device do one thing."""

import re
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer

from mamplus_host.cli.state import CLI, OUT, print_json, safe
from mamplus_host.errors import ConfigInvalid

WIPE_S = 4 * 3600.0  # a wipe of a large disk is waited for so long
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
For = Annotated[str, typer.Option("--for", metavar="TIME", help="Undo it by itself after 90s, 30m, 2h, 1d.")]
Address = Annotated[str, typer.Argument(metavar="[ADDRESS]", help="A host, as 192.0.2.1 or 2001:db8::1.")]
radio_app = typer.Typer(no_args_is_help=True, help="Switch radios off.")
usb_app = typer.Typer(no_args_is_help=True, help="Switch USB devices off.")


def act(kind: str, target: dict[str, Any], *, for_: str = "", as_json: bool = False, timeout_s: float = 120.0) -> None:
    """Have the agent do it, and say how to take it back."""
    done = CLI.call("act", timeout_s=timeout_s, kind=kind, target=target, ttl_s=seconds(for_) if for_ else 0)
    if as_json:
        print_json(done)
        return
    OUT.print(f"{safe(done['action'])}: {safe(done['detail'])}")
    if done["undo"]:
        OUT.print(f"mamplus undo {done['undo']} takes it back", style="dim")


def seconds(text: str) -> int:
    """Return "90s", "30m", "2h" or "1d" in seconds; ConfigInvalid for anything else."""
    found = re.fullmatch(r"(\d{1,8})([smhd]?)", text.strip())
    if found is None or not int(found[1]):
        raise ConfigInvalid(f"--for {text!r} is no time; want one like 90s, 30m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def cut(
    address: Address = "",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65_535, help="That one alone.")] = 0,
    pid: Annotated[int, typer.Option("--pid", metavar="PID", help="A process.")] = 0,
    app: Annotated[bool, typer.Option("--app", help="With --pid: its whole app.")] = False,
    as_json: Json = False,
) -> None:
    """Cut the connections with a host, of a process, or of its app; they may connect again: see refuse."""
    _want_one("cut", address, pid)
    if (app and not pid) or (port and not address):
        raise ConfigInvalid("--app goes with --pid, --port with an address; see mamplus cut --help")
    act("cut", {"address": _plain(address), "port": port} if address else {"tgid": pid, "app": app}, as_json=as_json)


def refuse(
    address: Address = "",
    pid: Annotated[int, typer.Option("--pid", metavar="PID", help="The app of a process.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="All but the enterprise; needs --for.")] = False,
    for_: For = "",
    as_json: Json = False,
) -> None:
    """Refuse a host to everybody, the network to an app (--pid), or all but the enterprise (--all)."""
    _want_one("refuse", address, pid, everything)
    target: dict[str, Any] = {"all": True} if everything else {"tgid": pid}
    act("refuse", {"address": _plain(address)} if address else target, for_=for_, as_json=as_json)


def _want_one(command: str, *targets: object) -> None:
    if sum(map(bool, targets)) != 1:
        raise ConfigInvalid(f"want one thing to {command}, an address or --pid PID; see mamplus {command} --help")


def _plain(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        raise ConfigInvalid(f"{address!r} is no address; want one like 192.0.2.1 or 2001:db8::1") from None


def lock(
    container: Annotated[
        bool, typer.Option("--container", help="The professional container, not the screens.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Lock all screens; the password opens them. Or the professional container: its passphrase opens it."""
    act("container-lock" if container else "lock", {}, as_json=as_json)


@radio_app.callback()
def radios() -> None:
    """Switch radios off."""


@radio_app.command("off")
def radio_off(
    kinds: Annotated[list[str] | None, typer.Argument(metavar="[wlan|bluetooth|wwan|...]", help="None: all.")] = None,
    for_: For = "",
    last_road: Annotated[
        bool, typer.Option("--last-road", help="Also the only road to the company; needs --for.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Switch radios off: Wi-Fi, Bluetooth, mobile data; `undo` brings each back as it was."""
    act("radio", {"radios": kinds or [], "last_road": last_road}, for_=for_, as_json=as_json)


@usb_app.callback()
def usb() -> None:
    """Switch USB devices off."""


@usb_app.command("off")
def usb_off(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its place, as 1-2.3: see lsusb -t.")] = "",
    new: Annotated[bool, typer.Option("--new", help="Whatever is plugged in from now on.")] = False,
    for_: For = "",
    as_json: Json = False,
) -> None:
    """Switch a USB device off, or all that are plugged in from now on (--new)."""
    act("usb", {"device": device, "new": new}, for_=for_, as_json=as_json)


def mount(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where it is mounted.")],
    way: Annotated[str, typer.Argument(metavar="read-only|noexec|unmount")],
    for_: For = "",
    as_json: Json = False,
) -> None:
    """Make a mounted medium read-only, have it start no programs, or unmount it."""
    act("mount", {"path": path, "way": way}, for_=for_, as_json=as_json)


def wipe(
    order: Annotated[Path, typer.Argument(metavar="ORDER", help="File with the company's order; -: from stdin.")],
    yes: Annotated[bool, typer.Option("--yes", help="Yes: it will be gone for good.")] = False,
    as_json: Json = False,
) -> None:
    """Wipe the professional container of this device, by a signed order of the company. There is no way back."""
    if not yes:
        raise ConfigInvalid("what [container] names would be gone for good; say --yes")
    try:
        text = sys.stdin.read(8192) if str(order) == "-" else order.read_bytes()[:8192].decode(errors="replace")
    except OSError as error:
        raise ConfigInvalid(f"cannot read {str(order)!r}: {error.strerror}; want the company's order") from None
    act("wipe", {"order": text}, as_json=as_json, timeout_s=WIPE_S)
