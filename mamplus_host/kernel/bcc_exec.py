# SPDX-License-Identifier: Apache-2.0
"""Loads the exec probes where the kernel has no BTF: bcc compiles exec.bpf.c with the kernel's headers.

    python -m mamplus_host.kernel.bcc_exec DIR

What mamplus-loader does for exec.bpf.o: the programs are pinned in DIR, and use the maps that are
pinned there, so verdicts, records, responder and tables are the same. The programs are raw tracepoints
instead of tp_btf, which is what bcc/kernel.h changes, and nothing else.

A process of its own: bcc holds 184 MB, and compiling takes a second or two.
"""

import os
import sys
from pathlib import Path
from typing import Any

from mamplus_host.errors import MamplusError, NotPossible
from mamplus_host.kernel import layout, pins
from mamplus_host.kernel._native import lib
from mamplus_host.kernel.bcc_shell import as_kernel_refused, import_bcc
from mamplus_host.kernel.bpf import Fd, Map, checked
from mamplus_host.kernel.headers import running_headers

PROGRAMS = (*pins.TRACING, "mamplus_answer")
_PERCPU_ARRAY, _SCRATCH_SLOTS = 6, 2  # as in scratch.h


def load(directory: Path) -> None:
    """Compile, load and pin. NotPossible without bcc or headers, KernelRefused when the kernel does not take it."""
    bcc = import_bcc()
    with running_headers() as tree:
        maps = _maps(directory)
        flags = [f"-I{pins.BCC_SOURCES}", *_spelling(tree)]
        flags += [f"-DMAMPLUS_FD_{name}={held.number}" for name, held in maps.items()]
        with as_kernel_refused():
            module = bcc.BPF(text=_source(), cflags=flags)
        for name in PROGRAMS:
            _pin(bcc, module, name, directory)


def _source() -> str:
    """Return what bcc compiles: it finds programs in its main text alone, so that is exec.bpf.c itself."""
    return '#include "kernel.h"\n' + (pins.BCC_SOURCES / "exec.bpf.c").read_text()


def _maps(directory: Path) -> dict[str, Fd]:
    """Return all maps of `directory` by name, and one that no other program shares."""
    found = {path.name: Fd.open(path) for path in directory.iterdir() if not path.name.startswith(("prog_", "link_"))}
    found["scratch"] = Map.create(_PERCPU_ARRAY, 4, layout.HELD.size, _SCRATCH_SLOTS, 0, "scratch", label="scratch")
    return found


def _spelling(tree: Path) -> list[str]:
    """Return what these headers call the change time of a file; see kernel_types.h."""
    try:
        text = (tree / "include/linux/fs.h").read_text(errors="replace")
    except OSError as error:
        raise NotPossible(f"these are no kernel headers: {error}; install linux-headers-{os.uname().release}") from None
    if "i_ctime_sec;" in text:
        return ["-DMAMPLUS_CTIME_IS_DISCRETE"]
    return ["-DMAMPLUS_CTIME_IS_RENAMED"] if "__i_ctime;" in text else []


def _pin(bcc: Any, module: Any, name: str, directory: Path) -> None:
    with as_kernel_refused():
        program = module.load_func(name, bcc.BPF.RAW_TRACEPOINT)
    path = pins.program_pin(directory, name)
    checked(lib.mamplus_obj_pin(program.fd, os.fsencode(path)), f"pin at {str(path)!r}")


def main() -> int:
    try:
        load(Path(sys.argv[1]))
    except (MamplusError, OSError) as error:
        print(f"bcc_exec: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, MamplusError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
