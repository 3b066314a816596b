# SPDX-License-Identifier: Apache-2.0
"""What the signed policy says of files: guarded paths, and data folders that only named programs read.

Journey: enterprise -> policy -> [policy/files] -> kernel/fileguards (LSM), responder (fanotify), vault.

`check` refuses what would brick a device: a rule over the trees that the package manager and
init write must name programs that still may, and no data folder may hide what programs are
made of. Nothing here looks at the device: a path is resolved where its file lies.
"""

import os
import re
from typing import Literal

import msgspec

from mamplus_host.errors import ConfigInvalid

Operation = Literal["write", "truncate", "unlink", "rename", "link", "setattr", "map-write", "create", "mount"]
OPERATIONS: tuple[Operation, ...] = (
    "write", "truncate", "unlink", "rename", "link", "setattr", "map-write", "create", "mount",
)  # fmt: skip

MAX_GUARDED = 40  # with the data folders below the 64 rules that the kernel tells apart; one is the agent's own
MAX_FOLDERS = 20
MAX_PROGRAMS = 32  # of one rule
MAX_PATH_BYTES = 4095

# What programs, the loader and init are made of, and what every program must be able to use.
_NEVER = ("/", "/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp", "/dev/shm")
_NEVER_BELOW = ("/proc", "/sys", "/dev")
_PROGRAM_TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot")
_WRITTEN_TREES = (
    *_PROGRAM_TREES, "/etc", "/var/lib", "/var/cache", "/var/log", "/var/spool", "/opt", "/srv", "/home", "/root",
    "/etc/systemd", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/apt", "/var/lib/systemd", "/usr/lib/systemd",
    "/var/lib/NetworkManager", "/var/cache/apt", "/var/cache/ldconfig", "/var/log/journal",
)  # fmt: skip
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}")
_INTERPRETER = re.compile(
    r"(ba|da|z|k|fi|c|tc|mk|a)?sh|busybox|toybox|env|(python|perl|ruby|node|lua|php|tclsh)[0-9.]*|[gmn]?awk"
    r"|ld(-linux.*|-musl.*)?\.so.*|ld-linux.*"
)


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that may all the same: exactly one of the three."""

    sha256: str = ""
    path: str = ""  # hashed on the device; hashed again when the package manager replaced it
    package: str = ""  # every program of a dpkg or rpm package
    children: bool = False  # and what it starts: a package manager's scripts are run by a shell


class Guarded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file, or a directory with all below it, that nobody changes but `writers`. It need not be there yet."""

    path: str
    operations: tuple[Operation, ...] = OPERATIONS
    writers: tuple[Program, ...] = ()


class DataFolder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A directory whose files only `readers` open; nobody else moves or links them out of it."""

    path: str
    readers: tuple[Program, ...]


class FileRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The field `files` of the policy."""

    guarded: tuple[Guarded, ...] = ()
    readable: tuple[DataFolder, ...] = ()


def check(rules: FileRules) -> None:
    """Raise ConfigInvalid, naming the first rule that no device should follow."""
    _check_count("files.guarded", len(rules.guarded), MAX_GUARDED)
    _check_count("files.readable", len(rules.readable), MAX_FOLDERS)
    for number, guarded in enumerate(rules.guarded):
        _check_guarded(f"files.guarded[{number}]", guarded)
    for number, folder in enumerate(rules.readable):
        _check_folder(f"files.readable[{number}]", folder)
    for name, paths in (
        ("files.guarded", [one.path for one in rules.guarded]),
        ("files.readable", [one.path for one in rules.readable]),
    ):
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ConfigInvalid(f"{name}: {twice!r} has two rules, want one: put their programs together")


def is_below(path: str, tree: str) -> bool:
    """Say whether `path` is `tree`, or lies in it."""
    return path == tree or path.startswith(tree.rstrip("/") + "/")


def is_of_the_system(path: str) -> bool:
    """Say whether what lies at `path` is opened by everything, so that no open of it may wait for an answer."""
    below = any(is_below(path, tree) for tree in (*_PROGRAM_TREES, "/etc"))
    return below or any(is_below(tree, path) for tree in _WRITTEN_TREES)


def is_interpreter(path: str) -> bool:
    """Say whether a program of this name runs whatever it is given: naming it would name everybody."""
    return _INTERPRETER.fullmatch(os.path.basename(path)) is not None


def _check_guarded(where: str, rule: Guarded) -> None:
    _check_path(f"{where}.path", rule.path)
    if not rule.operations:
        raise ConfigInvalid(f"{where}.operations is empty, want some of {', '.join(OPERATIONS)}; or leave it out")
    if len(set(rule.operations)) < len(rule.operations):
        raise ConfigInvalid(f"{where}.operations names one twice: {', '.join(rule.operations)}")
    _check_programs(f"{where}.writers", rule.writers)
    tree = next((tree for tree in _WRITTEN_TREES if is_below(tree, rule.path)), None)
    if tree is not None and not any(writer.path or writer.package for writer in rule.writers):
        raise ConfigInvalid(
            f"{where}: {rule.path!r} covers {tree!r}, which the package manager or init writes, and no writer is"
            ' named by path or package; want one that still may, like {"package": "dpkg", "children": true}'
        )


def _check_folder(where: str, rule: DataFolder) -> None:
    _check_path(f"{where}.path", rule.path)
    for tree in (*_PROGRAM_TREES, "/etc", "/var/lib", "/home", "/root"):
        if is_below(tree, rule.path):
            raise ConfigInvalid(f"{where}: {rule.path!r} covers {tree!r}: without reading it nothing works here")
    for tree in _PROGRAM_TREES:
        if is_below(rule.path, tree):
            raise ConfigInvalid(f"{where}: {rule.path!r} lies in {tree!r}, where programs are; want a folder of data")
    if not rule.readers:
        raise ConfigInvalid(f"{where}.readers is empty, want at least one program: nobody could read {rule.path!r}")
    _check_programs(f"{where}.readers", rule.readers)


def _check_path(where: str, path: str) -> None:
    """Refuse what is not the one spelling of an absolute path, and what no device can do without."""
    if not path.startswith("/"):
        raise ConfigInvalid(f"{where}: {path!r}; want an absolute path")
    if "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigInvalid(f"{where}: {path[:80]!r}...; want at most {MAX_PATH_BYTES} bytes, none of them NUL")
    plain = os.path.normpath("/" + path.lstrip("/"))
    if plain != path:
        raise ConfigInvalid(f"{where}: {path!r}; want it as {plain!r}, without '.', '..' or a slash too many")
    if path in _NEVER or any(is_below(path, tree) for tree in _NEVER_BELOW):
        raise ConfigInvalid(f"{where}: {path!r} would stop the whole device; want a file or directory below it")


def _check_programs(where: str, programs: tuple[Program, ...]) -> None:
    _check_count(where, len(programs), MAX_PROGRAMS)
    for number, program in enumerate(programs):
        _check_program(f"{where}[{number}]", program)


def _check_program(where: str, program: Program) -> None:
    given = [name for name in ("sha256", "path", "package") if getattr(program, name)]
    if len(given) != 1:
        raise ConfigInvalid(f"{where} has {' and '.join(given) or 'none'}, want exactly one of sha256, path, package")
    if program.sha256 and not _SHA256.fullmatch(program.sha256):
        raise ConfigInvalid(f"{where}.sha256: {program.sha256[:80]!r}; want 64 lower-case hexadecimal digits")
    if program.package and not _PACKAGE.fullmatch(program.package):
        raise ConfigInvalid(f"{where}.package: {program.package[:80]!r}; want a package's name, like 'dpkg'")
    if program.path:
        _check_path(f"{where}.path", program.path)
        if is_interpreter(program.path):
            raise ConfigInvalid(
                f"{where}.path: {program.path!r} runs whatever it is given, so it would name everybody; want the"
                ' program that starts it, with "children": true'
            )


def _check_count(name: str, count: int, most: int) -> None:
    if count > most:
        raise ConfigInvalid(f"{name} has {count} of them, want at most {most}: shorten the policy")
