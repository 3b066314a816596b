# SPDX-License-Identifier: Apache-2.0
"""Holds a descriptor of everything that is pinned: what loses its pin lives on, and is pinned again.

A look costs two directory listings and one bpf(2) call for each cgroup link. A link that was detached, or made
to call another program, is replaced by a new one first and let go of after that.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused, MamplusError
from mamplus_host.kernel import pins
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import Fd, checked
from mamplus_host.tamper.noticed import Noticed


@dataclass
class _Held:
    fd: Fd
    inode: int  # of its pin
    told: int = -1  # inode of what lies in its place, and was told of already


class Pins:
    """The pins of one directory, and the packet programs' beside it."""

    def __init__(self, config: Config, directory: Path, cgroup: Path) -> None:
        """KernelRefused when a pin cannot be opened."""
        self._config, self._directory = config, directory
        self._cgroup = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held = {path: _Held(Fd.open(path), path.lstat().st_ino) for path in self._paths()}
        self._programs = {
            name: checked(lib.mamplus_program_id(self._fd(pins.program_pin(directory, name))), f"ask for {name}")
            for name in pins.CGROUP
        }

    def look(self) -> list[Noticed]:
        """Return what was found changed since the last look; it is put back already, where it says so."""
        found = list(self._mount())
        for path, held in self._held.items():
            found += self._pin(path, held)
        for name in pins.CGROUP:
            found += self._link(name)
        return found

    def close(self) -> None:
        for held in self._held.values():
            held.fd.close()
        os.close(self._cgroup)

    def _paths(self) -> list[Path]:
        own = [entry for entry in self._directory.iterdir() if pins.is_ours(entry.name)]
        return own + [pins.packet_pin(self._config, direction) for direction in pins.PACKET]

    def _fd(self, path: Path) -> int:
        return self._held[path].fd.number

    def _mount(self) -> Iterator[Noticed]:
        """The whole directory is gone: removed, or the bpffs was unmounted."""
        if self._directory.is_dir():
            return
        try:
            pins.make_room(self._config)
            self._directory.mkdir(mode=0o700)
            yield Noticed(op="mount", detail=f"{str(self._directory)!r} was gone", is_put_back=True)
        except (OSError, MamplusError) as error:
            yield Noticed(op="mount", detail=f"{str(self._directory)!r} is gone, and cannot be made again: {error}")

    def _pin(self, path: Path, held: _Held) -> Iterator[Noticed]:
        inode = _inode(path)
        if inode == held.inode or not path.parent.is_dir():
            return
        what = "was removed" if not inode else "was replaced"
        try:
            _clear(path)
            held.fd.pin(path)
            held.inode, held.told = _inode(path), -1
            yield Noticed(op="pin", detail=f"the pin {path.name!r} {what}", is_put_back=True)
        except (OSError, KernelRefused) as error:
            if held.told != inode:  # told once, and tried at every look
                yield Noticed(op="pin", detail=f"the pin {path.name!r} {what}, and cannot be put back: {error}")
            held.told = inode

    def _link(self, name: str) -> Iterator[Noticed]:
        about = ffi.new("struct mamplus_link *")
        path = pins.link_pin(self._directory, name)
        if lib.mamplus_link_about(self._fd(path), about) < 0:
            return  # this kernel does not tell
        if about.cgroup and about.program == self._programs[name]:
            return
        what = "calls another program" if about.cgroup else "was detached"
        try:
            self._replace(name, path, is_attached=bool(about.cgroup))
            yield Noticed(op="link", detail=f"the hook {name!r} {what}", is_put_back=True)
        except (OSError, KernelRefused) as error:
            yield Noticed(op="link", detail=f"the hook {name!r} {what}, and cannot be attached again: {error}")

    def _replace(self, name: str, path: Path, *, is_attached: bool) -> None:
        held, program = self._held[path], self._fd(pins.program_pin(self._directory, name))
        number = lib.mamplus_attach_cgroup(program, self._cgroup, pins.CGROUP[name][1])
        new = Fd(checked(number, f"attach {name}"))
        if is_attached:  # with somebody else's program in it
            lib.mamplus_link_detach(held.fd.number)
        _clear(path)
        new.pin(path)
        old, held.fd = held.fd, new
        held.inode = _inode(path)
        old.close()


def _clear(path: Path) -> None:
    """Make the place of a pin free: a directory there goes aside in one step, and then away, with what is in it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f"aside-{secrets.token_hex(4)}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _inode(path: Path) -> int:
    """Return the inode number of a pin, 0 when there is none."""
    try:
        return path.lstat().st_ino
    except OSError:
        return 0
