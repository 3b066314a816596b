# SPDX-License-Identifier: Apache-2.0
"""Harmless programs that play attackers and victims: each does one thing and says what it saw."""

import hashlib
import shutil
import subprocess
from pathlib import Path

PYTHON = "/usr/bin/python3"

# Prints "ok" or the errno name that connect(2) or sendto(2) gave.
CALL = """
import errno, socket, sys
how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
kind = socket.SOCK_STREAM if how == "connect" else socket.SOCK_DGRAM
sock = socket.socket(family, kind)
sock.settimeout(3)
try:
    sock.connect((host, port)) if how == "connect" else sock.sendto(b"story", (host, port))
    print("ok")
except OSError as error:
    print(errno.errorcode.get(error.errno, str(error)))
"""

# Stays connected; for every line on stdin sends it and says so.
KEEP = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
print("connected", flush=True)
for number in range(100000):
    try:
        sock.send(b"%d\\n" % number)
    except OSError as error:
        print(error, flush=True)
        break
    time.sleep(0.02)
"""

# A shop that listens, and starts what it is told to: the network-facing parent.
SHOP = """
import socket, subprocess, sys
listener = socket.create_server(("203.0.113.8", 0))
print(listener.getsockname()[1], flush=True)
children = []
while True:
    peer, _ = listener.accept()
    with peer:
        words = peer.makefile().readline().split("\\t")
        children.append(subprocess.Popen([word.strip() for word in words]))
        peer.sendall(b"%d\\n" % children[-1].pid)
"""

# As many records as a moment needs: a wanderer that counts into a file until it is stopped.
COUNT = "i=0; while :; do i=$((i+1)); echo $i > {file}; sleep 0.02; done"


def variant(original: str, path: Path, mark: str) -> str:
    """Make a working copy of a program with another SHA-256, which is returned.

    Bytes behind the last section do not change what an ELF program does.
    """
    shutil.copy(original, path)
    with path.open("ab") as file:
        file.write(mark.encode())
    path.chmod(0o755)
    return sha256(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def died_of(process: "subprocess.Popen[bytes]") -> str:
    """Wait and say how a program ended: "exit 0", "signal 9"."""
    code = process.wait(20)
    return f"signal {-code}" if code < 0 else f"exit {code}"
