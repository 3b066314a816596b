# SPDX-License-Identifier: Apache-2.0
"""Makes a few calls on one D-Bus and ends: the protocol stays out of the service.

Journey: bus -> [bus_helper] -> D-Bus services.

Takes `bus.Asked` as JSON on stdin, answers with a list of `bus.Answer` on stdout. A bus that cannot be reached is
exit 1 with a sentence; a service that is not there is an answer with an error.
"""

import os
import pwd
import resource
import sys
from typing import Any

import msgspec
from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from mamplus_host.executor.session.bus import ANSWER_S, MAX_ANSWER_BYTES, Answer, Asked, Call

MAX_HEAP_BYTES = 256 << 20  # a user's program may answer with anything
MAX_TEXT = 300
NO_ANSWER = "org.freedesktop.DBus.Error.NoReply"


def main() -> int:
    asked = msgspec.json.decode(sys.stdin.buffer.read(MAX_ANSWER_BYTES), type=Asked)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_HEAP_BYTES, MAX_HEAP_BYTES))
    try:
        if asked.uid:
            _become(asked.uid)
        with open_dbus_connection(asked.address, auth_timeout=ANSWER_S) as connection:
            answers = [_one(connection, call) for call in asked.calls]
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        print(f"no D-Bus at {asked.address}: {type(error).__name__} {error}", file=sys.stderr)
        return 1
    said = msgspec.json.encode(answers)
    if len(said) > MAX_ANSWER_BYTES:
        print(f"D-Bus at {asked.address} answered {len(said)} bytes, want at most {MAX_ANSWER_BYTES}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(said)
    return 0


def _become(uid: int) -> None:
    """Be the user for good, with no more rights than that."""
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _one(connection: DBusConnection, call: Call) -> Answer:
    where = DBusAddress(call.path, bus_name=call.service, interface=call.interface)
    message = new_method_call(where, call.method, call.signature or None, tuple(call.arguments))
    try:
        reply = connection.send_and_get_reply(message, timeout=ANSWER_S)
    except TimeoutError:
        return Answer(error=NO_ANSWER, text=f"{call.service} did not answer within {ANSWER_S:g} s")
    if reply.header.message_type is MessageType.error:
        name = reply.header.fields.get(HeaderFields.error_name, "")
        return Answer(error=str(name), text=" ".join(str(word) for word in reply.body)[:MAX_TEXT])
    return Answer(values=[_json(value) for value in reply.body])


def _json(value: Any) -> Any:
    """Return a value as JSON has it: bytes become lists, keys text."""
    if isinstance(value, dict):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | bytes):
        return [_json(one) for one in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
