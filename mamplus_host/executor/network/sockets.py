# SPDX-License-Identifier: Apache-2.0
"""Which connections are meant, and what was found of them: what crosses between actions/cut.py and its helper."""

import msgspec


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One of: a host, a process, an app."""

    address: str = ""
    port: int = 0  # with `address`; 0: every port
    tgid: int = 0
    start_ns: int = 0  # of the process, as tasks.Task has it: another one under its number is not meant
    app: str = ""  # directory of a cgroup
    never: list[tuple[str, int]] = []  # other ends that are left alone; port 0: every port
    spared: list[int] = []  # processes that are left alone
    netns: list[str] = []  # with `address`: where to look; "-": the caller's own


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """One socket with another end."""

    family: int  # AF_
    protocol: int  # IPPROTO_
    source: str
    sport: int
    destination: str
    dport: int
    inode: int
    interface: int
    cookie: int  # the kernel's number of this socket, never given twice

    @property
    def words(self) -> str:
        return f"{self.source} port {self.sport} to {self.destination} port {self.dport}"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What there is, and after a cut what came of it."""

    sockets: list[Socket] = []
    standing: list[Socket] = []  # of those: not destroyed
    forgotten: int = 0  # entries of conntrack
    tier: str = ""  # sock_diag: destroyed by the kernel; conntrack: only forgotten; none: there was nothing to do
    why: str = ""  # something stands
