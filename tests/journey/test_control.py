# SPDX-License-Identifier: Apache-2.0
"""The control socket: what clients get, and what they cannot do to the agent."""

import contextlib
import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.control import client
from mamplus_host.control.client import Refused
from mamplus_host.control.guests import Guests
from mamplus_host.control.protocol import MAX_REQUEST_BYTES, REQUEST_TIMEOUT_S, Request, short_address
from mamplus_host.control.server import FOLLOW, FOLLOWER_BUFFER_BYTES, MAX_CLIENTS, ControlServer, Peer
from mamplus_host.errors import AgentUnreachable, ConfigInvalid
from mamplus_host.jsonlines import encode_line
from story.stage import wait_for


class Loop:
    """A real server in a thread of its own, as the service runs it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epoll = select.epoll()
        self.guests: list[int] = []
        self.later: list[Future[object]] = []
        self._place = Guests(self.let_in, self.guests.clear)
        self.server = ControlServer(path, self.epoll, self.answer)
        self.jobs: list[Any] = []
        self.is_over = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def let_in(self, pid: int) -> int:
        self.guests.append(pid)
        return 1

    def answer(self, request: Request, peer: Peer) -> Any:
        if request.command == "admit":
            return self._place.let_in(peer)
        if request.command == "follow":
            return FOLLOW
        if request.command == "later":
            self.later.append(Future())
            return self.later[-1]
        if request.command == "end":
            self.later[0].set_result("done")
            self.later[1].set_exception(ConfigInvalid("this is why"))
            self.later[2].set_result("nobody waits")
        if request.command == "wrong":
            raise ConfigInvalid("this is why")
        if request.command == "burst":
            raise RecursionError("nobody foresaw this")
        return {"echo": request.arguments}

    def run(self) -> None:
        while not self.is_over:
            for fd, mask in self.epoll.poll(0.02):
                if self.server.owns(fd):
                    self.server.on_ready(fd, mask)
            self.server.expire()
            while self.jobs:
                self.server.publish(self.jobs.pop(0))
        self.server.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    folder = tmp_path / ("long" * 30)  # longer than a socket's address may be
    folder.mkdir()
    loop = Loop(folder / "control.sock")
    yield loop
    loop.is_over = True
    loop.thread.join(5)


def raw(loop: Loop) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    with short_address(loop.path) as address:
        until(lambda: sock.connect_ex(address) == 0)  # EAGAIN while the listener's queue is full
    return sock


def until(claim: Any) -> None:
    wait_for("the other side", claim, timeout_s=60)


def test_a_request_is_answered(loop: Loop) -> None:
    assert client.call(loop.path, "anything", number=5) == {"echo": {"number": 5}}


def test_a_refusal_carries_its_sentence_and_exit_code(loop: Loop) -> None:
    with pytest.raises(Refused, match="this is why") as caught:
        client.call(loop.path, "wrong")

    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "garbage", [b"\0\xff\xfe\n", b"{}\n", b'{"command": 5}\n', b'{"command": "x", "extra": 1}\n', b"[]\n"]
)
def test_garbage_gets_one_error_and_the_next_client_is_served(loop: Loop, garbage: bytes) -> None:
    with raw(loop) as sock:
        sock.sendall(garbage)
        reply = json.loads(sock.makefile().read())

    assert reply["ok"] is False
    assert "want one line of JSON" in reply["error"]
    assert client.call(loop.path, "anything") == {"echo": {}}


def test_an_endless_request_is_refused_at_its_bound(loop: Loop) -> None:
    with raw(loop) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(b"x" * (MAX_REQUEST_BYTES + (1 << 17)))
        until(lambda: loop.server.refused == 1)

    assert client.call(loop.path, "anything") == {"echo": {}}


def test_a_client_that_says_nothing_is_let_go(loop: Loop) -> None:
    with raw(loop) as sock:
        begun = time.monotonic()

        assert sock.recv(1) == b""
        assert time.monotonic() - begun >= REQUEST_TIMEOUT_S * 0.9


def test_silent_clients_cannot_keep_others_out_for_long(loop: Loop) -> None:
    silent = [raw(loop) for _ in range(MAX_CLIENTS + 4)]
    try:

        def is_served() -> bool:
            with contextlib.suppress(AgentUnreachable, OSError):
                return bool(client.call(loop.path, "anything", timeout_s=1))
            return False

        until(is_served)
    finally:
        for sock in silent:
            sock.close()


def test_followers_receive_what_is_published(loop: Loop) -> None:
    items = client.stream(loop.path, "follow")
    with raw(loop) as sock:
        sock.sendall(b'{"command": "follow"}\n')
        assert json.loads(sock.recv(100))["ok"]
        until(lambda: loop.server.has_followers)
        loop.jobs.append({"n": 1})

        assert json.loads(sock.makefile().readline()) == {"item": {"n": 1}}
    items.close()  # type: ignore[attr-defined]


def test_a_follower_that_does_not_read_is_let_go_and_counted(loop: Loop) -> None:
    with raw(loop) as sock:
        sock.sendall(b'{"command": "follow"}\n')
        until(lambda: loop.server.has_followers)
        for _ in range(12):
            loop.jobs.append("x" * (FOLLOWER_BUFFER_BYTES // 8))

        until(lambda: not loop.server.has_followers)
        assert loop.server.refused == 1


def test_no_agent_is_said_with_the_socket_and_the_cause(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachable, match=r"none\.sock' \(No such file or directory\)"):
        client.call(tmp_path / "none.sock", "status")


def test_a_request_that_nobody_foresaw_is_an_error_and_not_the_end(loop: Loop) -> None:
    with pytest.raises(Refused, match="RecursionError: nobody foresaw this"):
        client.call(loop.path, "burst")

    assert client.call(loop.path, "anything") == {"echo": {}}


def test_a_guest_is_who_connected_and_only_while_it_is_connected(loop: Loop) -> None:
    connection = client.hold(loop.path, "admit")
    assert loop.guests == [os.getpid()]
    time.sleep(REQUEST_TIMEOUT_S + 0.5)  # longer than who says nothing may stay
    assert loop.guests == [os.getpid()]

    connection.close()

    until(lambda: loop.guests == [])


def test_there_is_one_guest_at_a_time(loop: Loop) -> None:
    first = client.hold(loop.path, "admit")

    with pytest.raises(Refused, match=f"process {os.getpid()} is writing"):
        client.hold(loop.path, "admit")

    first.close()
    until(lambda: loop.guests == [])
    client.hold(loop.path, "admit").close()


def test_a_connection_that_was_passed_on_by_a_process_that_ended_admits_nobody(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        with short_address(loop.path) as address:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(address)
        socket.send_fds(theirs, [b"x"], [connection.fileno()])
        os._exit(0)
    _data, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)

    with socket.socket(fileno=fds[0]) as passed:
        passed.settimeout(5)
        passed.sendall(b'{"command": "admit"}\n')
        assert b"has ended" in passed.recv(4096)

    assert loop.guests == []


def test_an_answer_that_takes_long_holds_up_nobody(loop: Loop) -> None:
    waiting = [raw(loop) for _ in range(3)]
    for number, sock in enumerate(waiting, 1):
        sock.sendall(encode_line(Request("later", {})))
        until(lambda: len(loop.later) == number)  # noqa: B023 - awaited before the next turn
    waiting[2].close()

    assert client.call(loop.path, "echo") == {"echo": {}}
    assert select.select(waiting[:2], [], [], 0)[0] == []
    client.call(loop.path, "end")

    answers = [json.loads(sock.makefile().readline()) for sock in waiting[:2]]
    assert [(one["ok"], one["result"] or one["error"]) for one in answers] == [(True, "done"), (False, "this is why")]
    assert client.call(loop.path, "echo") == {"echo": {}}
