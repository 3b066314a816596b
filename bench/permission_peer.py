# SPDX-License-Identifier: Apache-2.0
"""The same as permission_peer.c in Python.

permission_peer.py DIR exec|open      marks DIR's file system for starts or for every open, says "ready", allows all
"""

import ctypes
import os
import struct
import sys

CLASS_CONTENT, CLOEXEC = 0x4, 0x1
MARK_ADD_FILESYSTEM, ALLOW = 0x1 | 0x100, 1
MASKS = {"exec": 0x40000, "open": 0x10000}  # FAN_OPEN_EXEC_PERM, FAN_OPEN_PERM
EVENT, RESPONSE = struct.Struct("=IBBHQii"), struct.Struct("=iI")
AT_FDCWD = -100


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    group = libc.fanotify_init(CLASS_CONTENT | CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
    directory, mask = os.fsencode(sys.argv[1]), ctypes.c_uint64(MASKS[sys.argv[2]])
    if group < 0 or libc.fanotify_mark(group, MARK_ADD_FILESYSTEM, mask, AT_FDCWD, directory):
        raise SystemExit(f"{sys.argv[1]}: {os.strerror(ctypes.get_errno())}")
    print("ready", flush=True)
    while True:
        for _size, _version, _pad, _length, _mask, fd, _pid in EVENT.iter_unpack(os.read(group, 64 * EVENT.size)):
            os.write(group, RESPONSE.pack(fd, ALLOW))
            os.close(fd)


if __name__ == "__main__":
    main()
