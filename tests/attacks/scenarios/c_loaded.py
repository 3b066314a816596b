# SPDX-License-Identifier: Apache-2.0
"""Code that runs without being the program of an execve(2): loaders and libraries."""

import os
import subprocess
from pathlib import Path

from tests.attacks import calls
from tests.attacks.attack import OPENED, READ_FIRST, UNKNOWN_DATA, UNSEEN, attack
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen

FAMILY = "loaders and libraries"
EXEC_HOOKS = "what looks at execve(2) alone: the `signal` tier, execsnoop, Falco's spawned_process"
NOT_SEEN = "the kernel starts the loader; without LSM or fanotify nobody sees what that maps"


def interpreter_of(program: Path) -> str:
    """Return the dynamic loader that a program names."""
    found = subprocess.run(["readelf", "-l", program], capture_output=True, text=True, check=True).stdout
    return found.split("program interpreter: ")[1].split("]")[0]


@attack("ld.so FILE", FAMILY, OPENED, payload="dynamic", bypasses=EXEC_HOOKS, limit=NOT_SEEN)
def loader(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts the dynamic loader and gives it the listed program."""
    return on.execute(interpreter_of(payload), payload, marker)


@attack(
    "ld.so FILE without x",
    FAMILY,
    OPENED,
    payload="dynamic",
    bypasses=f"{EXEC_HOOKS}; the x bit; noexec mounts of old",
    limit=NOT_SEEN,
)
def loader_without_x(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with a file that nobody may execute."""
    payload.chmod(0o600)
    return on.execute(interpreter_of(payload), payload, marker)


@attack(
    "copied ld.so",
    FAMILY,
    OPENED,
    payload="dynamic",
    bypasses=f"{EXEC_HOOKS}; rules about the path of ld.so",
    limit=NOT_SEEN,
)
def copied_loader(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with a copy of the loader under another name."""
    own = payload.with_name("not-a-loader")
    own.write_bytes(Path(interpreter_of(payload)).read_bytes())
    own.chmod(0o755)
    return on.execute(own, payload, marker)


def _preloaded(on: Ground, payload: Path, marker: Path, variable: str) -> Seen:
    return on.execute(on.programs / "opens_library", **{variable: str(payload), "MARK": str(marker)})


@attack("LD_PRELOAD", FAMILY, OPENED, payload="library", bypasses=EXEC_HOOKS, limit=NOT_SEEN)
def preload(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has a good program load the listed library first."""
    return _preloaded(on, payload, marker, "LD_PRELOAD")


@attack("LD_AUDIT", FAMILY, OPENED, payload="library", bypasses=f"{EXEC_HOOKS}; filters of LD_PRELOAD", limit=NOT_SEEN)
def audit(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with LD_AUDIT, which is loaded earlier still."""
    return _preloaded(on, payload, marker, "LD_AUDIT")


@attack("dlopen", FAMILY, OPENED, payload="library", bypasses=EXEC_HOOKS, limit=NOT_SEEN)
def opened_library(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has a good program dlopen(3) the listed library."""
    return on.execute(on.programs / "opens_library", payload, MARK=str(marker))


@attack(
    "dlopen without a name",
    FAMILY,
    OPENED | {"fanotify": Outcome.NOT_COVERED},
    payload="library",
    bypasses=EXEC_HOOKS,
    limit=NOT_SEEN,
)
def opened_memfd(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above from a memfd, by /proc/self/fd/N."""
    body, program = payload.read_bytes(), str(on.programs / "opens_library")

    def deed() -> None:
        descriptor = calls.memory_file(body)
        os.set_inheritable(descriptor, True)
        os.execve(program, [program, f"/proc/self/fd/{descriptor}"], {"MARK": str(marker)})

    return on.act(deed)


@attack("ld.so.preload", FAMILY, OPENED, payload="library", bypasses=EXEC_HOOKS, limit=NOT_SEEN)
def system_preload(on: Ground, payload: Path, marker: Path) -> Seen:
    """Names it in /etc/ld.so.preload (in a mount namespace of its own)."""
    listing = payload.with_name("ld.so.preload")
    listing.write_text(f"{payload}\n")
    program = str(on.programs / "opens_library")

    def deed() -> None:
        calls.own_mounts()
        calls.mount(b"mptest", b"/etc", b"tmpfs")
        Path("/etc/ld.so.preload").write_text(listing.read_text())
        os.execve(program, [program], {"MARK": str(marker)})

    return on.act(deed)


@attack("library path", FAMILY, OPENED, payload="library", bypasses=EXEC_HOOKS, limit=NOT_SEEN)
def library_path(on: Ground, payload: Path, marker: Path) -> Seen:
    """Puts it where a program looks for a library of its own first (DT_RUNPATH)."""
    payload.rename(payload.with_name("libfriend.so"))
    program = payload.with_name("program")
    source = Path(__file__).parents[1] / "programs" / "needs_library.c"
    link = [f"-L{payload.parent}", "-Wl,--no-as-needed", "-lfriend", "-Wl,-rpath,$ORIGIN"]
    subprocess.run(["gcc", "-o", program, source, *link], check=True)
    on.make_known(program)
    return on.execute(program, MARK=str(marker))


@attack("a loader of one's own: map", FAMILY, OPENED, bypasses=EXEC_HOOKS, limit=NOT_SEEN)
def own_map(on: Ground, payload: Path, marker: Path) -> Seen:
    """A program maps the listed one's segments executable and jumps into them."""
    return on.tool("own_loader", "map", payload, marker)


@attack(
    "a loader of one's own: mprotect",
    FAMILY,
    OPENED,
    bypasses=f"{EXEC_HOOKS}; hooks on mmap(PROT_EXEC) alone",
    limit=NOT_SEEN,
)
def own_mprotect(on: Ground, payload: Path, marker: Path) -> Seen:
    """Maps them readable, and makes them executable afterwards with mprotect(2)."""
    return on.tool("own_loader", "later", payload, marker)


@attack(
    "a loader of one's own: personality",
    FAMILY,
    OPENED,
    bypasses=f"{EXEC_HOOKS}; hooks that look at the protection that was asked for",
    limit=NOT_SEEN,
)
def own_personality(on: Ground, payload: Path, marker: Path) -> Seen:
    """Maps them readable under personality(READ_IMPLIES_EXEC), which makes that executable."""
    return on.tool("own_loader", "implied", payload, marker)


@attack("a loader of one's own: remap_file_pages", FAMILY, OPENED, bypasses=f"{EXEC_HOOKS}; hooks on mmap(2) alone",
        limit=NOT_SEEN)  # fmt: skip
def own_remapped(on: Ground, payload: Path, marker: Path) -> Seen:
    """Maps them readable and shared, and has remap_file_pages(2) map them again under that personality."""
    return on.tool("own_loader", "remapped", payload, marker)


@attack("a loader of one's own: rewritten", FAMILY, UNSEEN, bypasses="what judges a file when it is opened or mapped",
        limit="what is mapped is judged as it was then, and no kernel keeps anybody from writing to a library that is"
        " in use; a start of the file is refused again")  # fmt: skip
def own_rewritten(on: Ground, payload: Path, marker: Path) -> Seen:
    """Maps a good file executable, and writes the listed program, which comes through a pipe, into it then."""
    good = on.payloads.quiet(payload.with_name("good"))
    return on.run(on.programs / "own_loader", "rewritten", good, marker, stdin=payload.read_bytes())


@attack(
    "a loader of one's own: copy",
    FAMILY,
    READ_FIRST,
    bypasses=f"{EXEC_HOOKS}; hooks on mmap(PROT_EXEC)",
    limit=f"{NOT_SEEN}; with LSM: {UNKNOWN_DATA}",
)
def own_copy(on: Ground, payload: Path, marker: Path) -> Seen:
    """Reads the file into anonymous memory, makes that executable and jumps into it."""
    return on.tool("own_loader", "copy", payload, marker)


@attack(
    "a loader of one's own: copy of a known file",
    FAMILY,
    OPENED,
    bypasses=f"{EXEC_HOOKS}; hooks on mmap(PROT_EXEC)",
    limit=NOT_SEEN,
)
def own_copy_of_known(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with a file that somebody tried to start before, so that its content is known."""
    on.execute(payload, marker.with_name("nothing"))
    marker.with_name("nothing").unlink(missing_ok=True)
    on.forget_the_past()
    return on.tool("own_loader", "copy", payload, marker)


@attack(
    "a loader of one's own: pipe",
    FAMILY,
    UNSEEN,
    bypasses="every control of files",
    limit="the code comes from a pipe or a connection: there is no file to look up; the loader itself can be listed",
)
def own_pipe(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, and the program comes through a pipe, as it might from the network."""
    return on.run(on.programs / "own_loader", "copy", "-", marker, stdin=payload.read_bytes())
