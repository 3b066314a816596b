# SPDX-License-Identifier: Apache-2.0
"""What was seen: the nouns that move from the collector to the analyzer.

Raw bytes stop at `collector/decode.py`; past it there are numbers, addresses and text.
Every event carries a `Head`; the other fields are its own. `Alert` in the original
design is an event that the collector hands on.
"""

from ipaddress import IPv4Address, IPv6Address

import msgspec

from mamplus_host.verdicts import Verdict

Address = IPv4Address | IPv6Address
NO_SLOT = 0xFFFFFFFF


# Of enum mamplus_op, in its order.
OPERATIONS = (
    "open", "map-exec", "write", "truncate", "unlink", "rename", "link", "setattr", "map-write", "read",
    "create", "mount",
)  # fmt: skip


class Head(msgspec.Struct, frozen=True, gc=False):
    """First part of every event; field order is that of `struct mamplus_head`."""

    boot_ns: int  # CLOCK_BOOTTIME; not comparable across reboots
    cgroup_id: int  # cgroup v2 inode number
    generation: int  # of the BLE that the kernel asked; 0: none was loaded
    tgid: int
    ppid: int
    uid: int
    slot: int  # where the deciding word lies in the kernel's table, NO_SLOT when none did; for diagnosis only
    flags: int  # MAMPLUS_F_ of mamplus_events.h
    verdict: Verdict
    comm: str  # the task picks this: show it, never match policy on it


class File(msgspec.Struct, frozen=True, gc=False):
    """A file's identity: while all five agree, it is the file that was hashed."""

    dev: int  # kernel dev_t: major << 20 | minor
    ino: int
    size: int  # bytes
    ctime_s: int
    ctime_ns: int
    mode: int = 0  # st_mode


class Exec(msgspec.Struct, frozen=True, gc=False):
    """A program was started: `sched_process_exec`. `held` events are the answers to starts that waited."""

    head: Head
    file: File
    sha256: str  # lower-case hex; "" when unknown
    path: str  # as given to execve, undecodable bytes as surrogates: may be relative or a link
    held: bool = False
    waited_ns: int = 0  # held only


class FileAccess(msgspec.Struct, frozen=True, gc=False):
    """A program wanted something of a file that was refused, suspected, or decided by declaration."""

    head: Head
    file: File
    sha256: str  # lower-case hex; "" where none was asked for or known
    op: str  # one of OPERATIONS
    path: str  # as the kernel names it, the end of a long one, undecodable bytes as surrogates; "" when not told
    waited_ns: int = 0  # from the first try to the answer


class Fork(msgspec.Struct, frozen=True, gc=False):
    """`head` is the parent's."""

    head: Head
    child_tgid: int


class Exit(msgspec.Struct, frozen=True, gc=False):
    head: Head
    exit_code: int  # as in wait(2): signal in the low 7 bits, status << 8


class Connect(msgspec.Struct, frozen=True, gc=False):
    """connect(2), or (`unconnected`) sendto(2) and kin with an address."""

    head: Head
    address: Address  # IPv4-mapped IPv6 is shown as IPv4
    port: int  # host order
    protocol: int  # IPPROTO_
    unconnected: bool


class Packet(msgspec.Struct, frozen=True, gc=False):
    """A packet that netfilter refused (`Read_packets`). Its head's task is not evidence."""

    head: Head
    source: Address
    destination: Address
    sport: int
    dport: int
    protocol: int


class DnsQuery(msgspec.Struct, frozen=True, gc=False):
    """A DNS query that was refused."""

    head: Head
    server: Address
    name: str  # lower case, no trailing dot


class FileChange(msgspec.Struct, frozen=True, gc=False):
    """A protected file was touched, as told by fanotify or inotify; made in user space."""

    boot_ns: int
    path: str
    changes: tuple[str, ...]  # of: modify, attrib, delete, moved-away, moved-over, created, close-write
    tgid: int  # 0 when the tier cannot say (inotify)
    since_ns: int = 0  # it was told after this (CLOCK_BOOTTIME): there was nothing to be read then; 0: not known


class MassRewrite(msgspec.Struct, frozen=True, gc=False):
    """Many protected files were rewritten, renamed or removed by one family of processes; made in user space."""

    boot_ns: int
    paths: tuple[str, ...]  # those that were known when the family was stopped; more may be damaged
    tgid: int  # head of the family; 0 when nobody could be told
    stopped: str  # how it was stopped, for people; or why it was not
    scrambled: int = 0  # of the first few that are still there: look encrypted


class Tamper(msgspec.Struct, frozen=True, gc=False):
    """Somebody laid hands on the agent, its responder, or what they have in the kernel.

    Told by the kernel (`head` is who did it), or noticed afterwards by `tamper.py` (`head.tgid` is 0: nobody saw who).
    """

    head: Head
    op: str  # of layout.TAMPER_, lower case; or "pin", "map", ...: what was found changed
    target: int = 0  # process of ours that was meant, 0: none
    argument: int = 0  # see mamplus_events.h
    detail: str = ""  # what was noticed, for people; "" when the kernel told it
    is_put_back: bool = False


FileEvent = FileChange | MassRewrite  # without a head: no probe of ours saw it
Event = Exec | FileAccess | Fork | Exit | Connect | Packet | DnsQuery | FileChange | MassRewrite | Tamper
