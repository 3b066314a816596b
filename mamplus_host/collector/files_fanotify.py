# SPDX-License-Identifier: Apache-2.0
"""The fanotify tier of the file watch: says which process touched a file.

Journey: kernel -> [files_fanotify] -> files.

Notifications only (FAN_CLASS_NOTIF): nothing here can hold up anybody. Marked are the file
(so that a write through another hard link is told), its directory, and every directory above
for its own removal or renaming. Events name a file by its handle, or by its directory's
handle and a name; so nothing is opened to read them. Needs Linux 5.9, CAP_SYS_ADMIN, and file
systems with file handles; the constructor or `watch` raises OSError where that is not given.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

BUFFER_BYTES = 1 << 10  # some eight events: whoever is to be stopped goes on while they are looked at
_AT_FDCWD = -100
_INIT = 0x1 | 0x2 | 0x200 | 0x400 | 0x800  # CLOEXEC, NONBLOCK, REPORT_FID, REPORT_DIR_FID, REPORT_NAME
_ADD, _DONT_FOLLOW = 0x1, 0x4
_OVERFLOW = 0x4000
_ONDIR, _ON_CHILD = 0x40000000, 0x08000000
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
CHANGES = {
    0x2: "modify", 0x4: "attrib", 0x8: "close-write", 0x40: "moved-away", 0x80: "moved-over", 0x100: "created",
    0x200: "delete", _DELETE_SELF: "delete", _MOVE_SELF: "moved-away",
}  # fmt: skip
_OF_FILE = 0x2 | 0x4 | 0x8
_OF_ENTRIES = _OF_FILE | 0x40 | 0x80 | 0x100 | 0x200 | _ON_CHILD
_OF_SELF = _DELETE_SELF | _MOVE_SELF | _ONDIR
_METADATA = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_INFO = struct.Struct("=BBH8sIi")  # info_type, pad, len, fsid, handle_bytes, handle_type
_HANDLE = struct.Struct("=Ii")
_FID, _DFID_NAME = 1, 2
_MAX_HANDLE = 128

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]

Handle = tuple[bytes, int, bytes]  # file system id, type and bytes of name_to_handle_at(2)


class _Places:
    """Paths by their handle; a path has one handle, the last one that it was seen with."""

    def __init__(self) -> None:
        self._paths: dict[Handle, str] = {}
        self._handles: dict[str, Handle] = {}

    def put(self, path: str) -> None:
        handle = _handle(path)
        self.drop(path)
        self._paths[handle], self._handles[path] = path, handle

    def drop(self, path: str) -> None:
        handle = self._handles.pop(path, None)
        if handle is not None and self._paths.get(handle) == path:
            del self._paths[handle]

    def get(self, handle: Handle) -> str | None:
        return self._paths.get(handle)


class FanotifyTier:
    """Implements `files.Tier`."""

    name = "fanotify"

    def __init__(self, count: Callable[[str, bool], object] = lambda _path, _counts: None) -> None:
        """`count` is told of each file that is watched, or no longer: of what lies there at the moment."""
        self._count = count
        self._fd = _checked(_libc.fanotify_init(_INIT, os.O_RDONLY))
        self._paths: dict[str, None] = {}
        self._files = _Places()
        self._directories = _Places()  # that hold or lead to watched files
        self._open: set[str] = set()  # directories of which every name is told

    def fileno(self) -> int:
        return self._fd

    def watch(self, path: str) -> None:
        self._paths[path] = None
        parent = os.path.dirname(path)
        self._mark(parent, _OF_ENTRIES | _OF_SELF)
        self._directories.put(parent)
        above = os.path.dirname(parent)
        while above != os.path.dirname(above):
            self._mark(above, _OF_SELF)
            self._directories.put(above)
            above = os.path.dirname(above)
        with suppress(FileNotFoundError):  # its directory will tell when it comes back
            if stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
                self._mark(path, _OF_FILE)
                self._files.put(path)
                self._count(path, True)

    def watch_all_in(self, directory: str) -> None:
        """Tell of every name in `directory`, also of those that are not watched."""
        self._open.add(directory)
        self._mark(directory, _OF_ENTRIES | _OF_SELF)
        self._directories.put(directory)

    def forget(self, path: str) -> None:
        """Its marks stay until the last descriptor is closed; what they tell is left out."""
        self._paths.pop(path, None)
        self._files.drop(path)
        self._count(path, False)
        self._open.discard(path)

    def read(self) -> tuple[list[tuple[str, str, int]], bool] | None:
        try:
            data = os.read(self._fd, BUFFER_BYTES)
        except BlockingIOError:
            return None
        touches: list[tuple[str, str, int]] = []
        overflowed, own = False, os.getpid()
        for mask, tgid, infos in decode(data):
            overflowed |= bool(mask & _OVERFLOW)
            if tgid != own:
                changes = [change for bit, change in CHANGES.items() if mask & bit]
                touches += [(path, change, tgid) for path in self._touched(mask, infos) for change in changes]
        return touches, overflowed

    def close(self) -> None:
        os.close(self._fd)

    def _touched(self, mask: int, infos: list[tuple[int, Handle, str]]) -> list[str]:
        """Return the watched paths that one event is about."""
        for kind, handle, name in infos:
            linked = self._files.get(handle)
            if kind == _FID and linked is not None:
                return [linked]
            directory = self._directories.get(handle)
            if kind == _DFID_NAME and directory is not None:
                if mask & (_DELETE_SELF | _MOVE_SELF):
                    return [path for path in self._paths if path.startswith(directory + "/")]
                path = f"{directory}/{name}"
                if path in self._paths or directory in self._open:
                    return [path]
        return []

    def _mark(self, path: str, mask: int) -> None:
        raw = os.fsencode(path)
        _checked(_libc.fanotify_mark(self._fd, _ADD | _DONT_FOLLOW, mask, _AT_FDCWD, raw), path)


def decode(data: bytes) -> Iterator[tuple[int, int, list[tuple[int, Handle, str]]]]:
    """Yield (mask, tgid, [(info type, handle, name)]) of each event in one read; names as file names."""
    at = 0
    while at + _METADATA.size <= len(data):
        event_len, _version, _reserved, metadata_len, mask, _fd, pid = _METADATA.unpack_from(data, at)
        yield mask, pid, list(_infos(data, at + metadata_len, at + event_len))
        at += event_len


def _infos(data: bytes, at: int, end: int) -> Iterator[tuple[int, Handle, str]]:
    while at + _INFO.size <= end:
        kind, _pad, length, fsid, handle_bytes, handle_type = _INFO.unpack_from(data, at)
        handle_at = at + _INFO.size
        name_at = handle_at + handle_bytes
        name = data[name_at : at + length].split(b"\0", 1)[0]
        yield kind, (fsid, handle_type, data[handle_at:name_at]), os.fsdecode(name)
        at += length


def _handle(path: str) -> Handle:
    """Return the handle under which events name the file or directory at `path`."""
    buffer = ctypes.create_string_buffer(_HANDLE.pack(_MAX_HANDLE, 0), _HANDLE.size + _MAX_HANDLE)
    mount = ctypes.c_int()
    raw = os.fsencode(path)
    _checked(_libc.name_to_handle_at(_AT_FDCWD, raw, buffer, ctypes.byref(mount), 0), path)
    size, kind = _HANDLE.unpack_from(buffer)
    return struct.pack("=Q", os.statvfs(path).f_fsid), kind, buffer.raw[_HANDLE.size : _HANDLE.size + size]


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
