# SPDX-License-Identifier: Apache-2.0
"""Scripts: the program that starts is a good one, and what it is given is listed."""

import os
import shutil
from pathlib import Path

from tests.attacks.attack import OPENED, READ_FIRST, UNKNOWN_DATA, UNSEEN, Missing, attack
from tests.attacks.ground import Ground
from tests.attacks.outcome import Seen
from tests.attacks.scenarios.a_names import down_deep

FAMILY = "scripts"
PROGRAMS = (
    "lists of programs; application control without script rules (fapolicyd's default trusts an interpreter's text)"
)
NOT_SEEN = "what runs is the interpreter; without LSM or fanotify nobody sees what it reads"
NO_FILE = (
    "the text comes from no file: whoever may run an interpreter may type; where that matters, list the interpreter"
)

CAP_SYS_RESOURCE = 24


def found(name: str) -> str:
    for directory in ("/usr/bin", "/bin"):
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    raise Missing(name)


@attack("shebang", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def shebang(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts the listed script."""
    return on.execute(payload, marker)


@attack("nested shebang", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def nested_shebang(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts a good script whose interpreter is the listed script."""
    outer = payload.with_name("outer")
    outer.write_text(f"#!{payload} {marker}\n")
    outer.chmod(0o755)
    return on.execute(outer)


@attack("env -S shebang", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def env_shebang(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts a good script that says `#!/usr/bin/env -S sh LISTED`."""
    outer = payload.with_name("outer")
    outer.write_text(f"#!/usr/bin/env -S sh {payload} {marker}\n")
    outer.chmod(0o755)
    return on.execute(outer)


@attack("sh FILE", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def shell_file(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives the listed script to the shell; it needs no x bit."""
    payload.chmod(0o600)
    return on.execute(found("sh"), payload, marker)


@attack("sh FILE at a long path", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def shell_file_deep(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, at a path of more than 4,096 bytes: the kernel itself cannot name it."""
    shell = found("sh")

    def deed() -> None:
        down_deep(payload)
        os.execv(shell, [shell, f"./{payload.name}", str(marker)])

    return on.act(deed)


@attack("sh -c '. FILE'", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def shell_source(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has a shell read it as a part of another script."""
    return on.execute(found("sh"), "-c", 'file=$1; shift; . "$file"', "sh", payload, marker)


@attack("sh -s", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def shell_stdin(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives it to the shell as standard input, opened by the shell that starts it."""
    return on.execute(found("sh"), "-c", 'exec sh -s "$2" < "$1"', "sh", payload, marker)


@attack("sh -s, opened by another", FAMILY, READ_FIRST, payload="shell", bypasses=PROGRAMS,
        limit=f"{NOT_SEEN}; with LSM: {UNKNOWN_DATA}")  # fmt: skip
def given_input(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, opened by a program that is no interpreter, and becomes the shell."""
    return on.tool("gives", payload, found("sh"), "-s", marker)


@attack("interpreter that passes for another", FAMILY, OPENED, payload="shell", is_alike=True,
        bypasses="what takes /proc/PID/exe for the program that runs", limit=NOT_SEEN)  # fmt: skip
def passes_for(on: Ground, payload: Path, marker: Path) -> Seen:
    """An interpreter has prctl(2) name a good program as its own, and reads the listed script then."""
    if not has_capability(CAP_SYS_RESOURCE):
        raise Missing("CAP_SYS_RESOURCE")
    own = Path(shutil.copy(on.programs / "passes_for", payload.with_name("perl-of-ours")))  # so named, it is one
    return on.run(own, on.programs / "quiet", payload, marker)


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split(maxsplit=1)[0], 16) >> number & 1)


@attack(
    "cat FILE | sh -s",
    FAMILY,
    READ_FIRST,
    payload="shell",
    bypasses=PROGRAMS,
    limit=f"{NOT_SEEN}; with LSM: {UNKNOWN_DATA}",
)
def shell_pipe(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has cat read it and the shell read cat."""
    return on.execute(found("sh"), "-c", 'cat "$1" | sh -s "$2"', "sh", payload, marker)


@attack("cat known FILE | sh -s", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def shell_pipe_of_known(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above with a script that somebody tried to run before, so that its content is known."""
    on.execute(found("sh"), payload, marker.with_name("nothing"))
    marker.with_name("nothing").unlink(missing_ok=True)
    on.forget_the_past()
    return shell_pipe(on, payload, marker)


@attack("text on standard input", FAMILY, UNSEEN, payload="shell", bypasses=PROGRAMS, limit=NO_FILE)
def shell_typed(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes the text of the script into the shell's standard input, as a terminal or a connection would."""
    return on.run(found("sh"), "-s", marker, stdin=payload.read_bytes())


@attack("sh -c TEXT", FAMILY, UNSEEN, payload="shell", bypasses=PROGRAMS, limit=NO_FILE)
def shell_text(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives the text of the script to the shell as an argument."""
    return on.execute(found("sh"), "-c", payload.read_bytes(), "sh", marker)


@attack("python FILE", FAMILY, OPENED, payload="python", bypasses=PROGRAMS, limit=NOT_SEEN)
def python_file(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives a listed script to Python."""
    return on.execute(found("python3"), "-S", payload, marker)


@attack("python import", FAMILY, OPENED, payload="python", bypasses=PROGRAMS, limit=NOT_SEEN)
def python_import(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has Python import it as a module."""
    payload.rename(payload.with_name("friend.py"))
    text = "import sys; sys.path.insert(0, sys.argv.pop(1)); import friend"
    return on.execute(found("python3"), "-S", "-c", text, payload.parent, marker)


@attack("python -c TEXT", FAMILY, UNSEEN, payload="python", bypasses=PROGRAMS, limit=NO_FILE)
def python_text(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives the text of the script to Python as an argument."""
    return on.execute(found("python3"), "-S", "-c", payload.read_bytes(), marker)


@attack("perl FILE", FAMILY, OPENED, payload="perl", bypasses=PROGRAMS, limit=NOT_SEEN)
def perl_file(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives a listed script to Perl."""
    return on.execute(found("perl"), payload, marker)


@attack("copied interpreter", FAMILY, OPENED, payload="shell", bypasses="lists of interpreters by path", limit=NOT_SEEN)
def copied_interpreter(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives it to a copy of the shell under another name."""
    own = payload.with_name("editor")
    own.write_bytes(Path(found("sh")).read_bytes())
    own.chmod(0o755)
    return on.execute(own, payload, marker)


@attack("touched interpreter", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def touched_interpreter(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has a copy of the shell change its own mode first, so that the file that runs has other times than when it was
    hashed, and read the listed script then."""
    own = payload.with_name("editor")
    own.write_bytes(Path(found("sh")).read_bytes())
    own.chmod(0o755)
    return on.execute(own, "-c", 'chmod 700 "$1"; file=$2; shift 2; . "$file"', "sh", own, payload, marker)


@attack(
    "changed interpreter",
    FAMILY,
    READ_FIRST,
    payload="shell",
    bypasses="lists of interpreters by path or hash",
    limit=f"{NOT_SEEN}; with LSM: {UNKNOWN_DATA}, and a shell that is on no list is none",
)
def changed_interpreter(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives it to a shell whose last byte was changed, so that no list of interpreters knows it."""
    own = payload.with_name("editor")
    own.write_bytes(Path(found("sh")).read_bytes() + b"x")
    own.chmod(0o755)
    return on.execute(own, payload, marker)


@attack("script by descriptor", FAMILY, OPENED, payload="shell", bypasses=PROGRAMS, limit=NOT_SEEN)
def script_descriptor(on: Ground, payload: Path, marker: Path) -> Seen:
    """Gives the shell /proc/self/fd/N of a script that was deleted."""
    shell = found("sh")

    def deed() -> None:
        descriptor = os.open(payload, os.O_RDONLY)
        payload.unlink()
        os.set_inheritable(descriptor, True)
        os.execv(shell, [shell, f"/proc/self/fd/{descriptor}", str(marker)])

    return on.act(deed)
