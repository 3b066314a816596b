# SPDX-License-Identifier: Apache-2.0
"""A firewalld of our own, with a system bus of its own, in a network namespace; of this machine it sees no other part.

Debian's package is unpacked, not installed (packaging/provision). All its processes are in a namespace that ends with
the first of them.
"""

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

UNPACKED = Path(__file__).parents[2] / "build/unpacked/firewalld"
Backend = Literal["nftables", "iptables"]

# $1: a directory of ours, $2: the unpacked package, $3: the backend. Prints "ready"; then each line on stdin is what
# firewall-cmd is to do, and "exit CODE" its answer. /run is an empty one but for the lock of iptables. Without
# CAP_SYS_MODULE no module of the kernel is removed, which --complete-reload does.
_RUN = """
set -e
mount --make-rprivate /
touch "$1/lock" && mount --bind /run/xtables.lock "$1/lock"
mount -t tmpfs own /run && mkdir /run/dbus && touch /run/xtables.lock && mount --bind "$1/lock" /run/xtables.lock
[ "$3" = nftables ] || mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi
cp -a "$2/etc/firewalld" "$1/etc" && sed -i "s/^FirewallBackend=.*/FirewallBackend=$3/" "$1/etc/firewalld.conf"
dbus-daemon --config-file="$1/bus.conf" --fork --nopidfile --nosyslog
/usr/bin/python3 "$2/usr/sbin/firewalld" --nofork --nopid --log-target console --system-config "$1/etc" \
    --default-config "$2/usr/lib/firewalld" >&2 &
until /usr/bin/python3 "$2/usr/bin/firewall-cmd" --state >/dev/null 2>&1; do kill -0 $!; sleep 0.2; done
echo ready
while read -r words; do
    /usr/bin/python3 "$2/usr/bin/firewall-cmd" $words >&2 && echo "exit 0" || echo "exit $?"
done
"""
_BUS = """
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow user="*"/>
  </policy>
</busconfig>
"""


class Firewalld:
    """One that runs."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self._log = process, log

    def begin(self, words: str) -> None:
        """Have `firewall-cmd WORDS` begin; `is_done` tells."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()

    def is_done(self) -> bool:
        """Whether it has ended, which has to be well; True once."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], 0)[0]:
            return False
        self.expect("exit 0")
        return True

    def expect(self, line: str) -> None:
        """Wait for this line; AssertionError with the end of its log when it is another."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said == line, f"firewalld: {said!r}, want {line!r}: {self._log.read_text()[-2000:]}"


@contextmanager
def firewalld(netns: str, directory: Path, backend: Backend) -> Iterator[Firewalld]:
    """Run one in the namespace `netns`, with its files in `directory`; on the iptables of iptables-legacy, or nft."""
    (directory / "bus.conf").write_text(_BUS)
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "ip", "netns", "exec", netns]
    command = [*own, "setpriv", "--bounding-set=-sys_module", "bash", "-c", _RUN, "firewalld"]
    pipe, log = subprocess.PIPE, directory / "log"
    with log.open("w") as to:
        process = subprocess.Popen(
            [*command, directory, UNPACKED, backend], stdin=pipe, stdout=pipe, stderr=to, text=True
        )
    try:
        made = Firewalld(process, log)
        made.expect("ready")
        yield made
    finally:
        process.kill()
        process.communicate()
