# SPDX-License-Identifier: Apache-2.0
"""A D-Bus daemon of our own, with services that need hardware or people stood in for by dbusmock."""

import os
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamplus_host.executor.session import bus
from mamplus_host.executor.session.bus import Call
from tests.kernel.conftest import SLOWNESS

DEADLINE_S = 20.0 * SLOWNESS
MOCK = "org.freedesktop.DBus.Mock"
LOGIN, MANAGER = "org.freedesktop.login1", "org.freedesktop.login1.Manager"
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>{kind}</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
{user}</policy></busconfig>
"""
# What a real logind and locker do between them: the session says that it is locked once its screen is.
_LOCKS = """
path = "/org/freedesktop/login1/session/" + args[0]
if path not in objects:
    raise dbus.exceptions.DBusException("No session", name="org.freedesktop.login1.NoSuchSession")
objects[path].UpdateProperties("org.freedesktop.login1.Session", {"LockedHint": dbus.Boolean(True, variant_level=1)})
"""


class Bus:
    """One daemon at `socket`, and the mocks on it. `uid`: whose it is; only that user may speak there."""

    def __init__(self, socket: Path, *, kind: str = "session", uid: int = 0) -> None:
        self.socket, self.uid = socket, uid
        self._mocks: list[subprocess.Popen[bytes]] = []
        socket.parent.mkdir(parents=True, exist_ok=True)
        config = socket.with_name(f"{socket.name}.conf")
        user = f'<deny user="*"/><allow user="{pwd.getpwuid(uid).pw_name}"/>' if uid else '<allow user="*"/>'
        config.write_text(_CONFIG.format(kind=kind, socket=socket, user=user))
        self._daemon = self._start(["dbus-daemon", "--nofork", f"--config-file={config}"])
        wait_for(socket.exists)

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"

    def mock(self, template: str, service: str, log: Path | None = None) -> None:
        """Start dbusmock with one of its templates, and wait until `service` is there."""
        command = ["/usr/bin/python3", "-m", "dbusmock", "--session", "--template", template]
        self._mocks.append(self._start(command + (["--logfile", str(log)] if log else [])))
        owns = Call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", (service,))
        wait_for(lambda: self.ask(owns)[0])

    def ask(self, call: Call) -> list[Any]:
        answer = bus.ask([call], address=self.address, uid=self.uid)[0]
        assert not answer.error, f"{call.method}: {answer.error} {answer.text}"
        return answer.values

    def get(self, service: str, path: str, interface: str) -> dict[str, Any]:
        return bus.plain(self.ask(bus.get_all(service, path, interface))[0])

    def close(self) -> None:
        for process in (*self._mocks, self._daemon):
            process.kill()
            process.wait()

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": self.address}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, user=self.uid or None,
            group=pwd.getpwuid(self.uid).pw_gid if self.uid else None, extra_groups=[] if self.uid else None,
        )  # fmt: skip


class Login(Bus):
    """A system bus with a logind on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "system" / "bus")
        self.mock("logind", LOGIN)
        arguments = (MANAGER, "LockSession", "s", "", _LOCKS)
        self.ask(Call(LOGIN, "/org/freedesktop/login1", MOCK, "AddMethod", "sssss", arguments))

    def sit_down(self, session: str, uid: int, user: str, *, kind: str = "wayland", tty: str = "") -> None:
        """Begin a session."""
        arguments: tuple[Any, ...] = (session, "seat0", uid, user, True)
        self.ask(Call(LOGIN, "/org/freedesktop/login1", MOCK, "AddSession", "ssusb", arguments))
        self.change(session, Type=["s", kind], TTY=["s", tty])

    def change(self, session: str, **properties: list[Any]) -> None:
        path = f"/org/freedesktop/login1/session/{session}"
        arguments = ("org.freedesktop.login1.Session", properties)
        self.ask(Call(LOGIN, path, MOCK, "UpdateProperties", "sa{sv}", arguments))

    def is_locked(self, session: str) -> bool:
        path = f"/org/freedesktop/login1/session/{session}"
        return bool(self.get(LOGIN, path, "org.freedesktop.login1.Session")["LockedHint"])


def wait_for(is_there: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not is_there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
