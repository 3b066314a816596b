# SPDX-License-Identifier: Apache-2.0
"""Inside the virtual machine: hide the kernel's BTF from everybody, attach, start programs, tell it in JSON."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.collector.decode import decode_batch
from mamplus_host.config import parse
from mamplus_host.events import Exec
from mamplus_host.kernel import pins
from mamplus_host.kernel.objects import Kernel
from mamplus_host.verdicts import Verdict
from tests.kernel.conftest import sha256

PLACE = Path("/tmp/without-btf")
CONFIG = parse(
    {
        "scope": {"cgroup": "/without-btf"},
        "paths": {"bpffs": "/sys/fs/bpf/without-btf", "run": f"{PLACE}/run", "state": f"{PLACE}/state"},
    }
)
SCOPE = Path("/sys/fs/cgroup/without-btf")
SETTLED_S = 0.2  # a younger file is hashed at every start


def start(program: Path) -> int:
    """Run `program` in the scope; return its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        (SCOPE / "cgroup.procs").write_text("0")
        os.execv(program, [str(program)])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    PLACE.mkdir()
    empty, good, listed = PLACE / "empty", PLACE / "good", PLACE / "listed"
    empty.touch()
    subprocess.run(["mount", "--bind", empty, pins.BTF], check=True)
    shutil.copy("/bin/true", good)
    shutil.copy("/bin/true", listed)
    with listed.open("ab") as file:
        file.write(b"another content")
    SCOPE.mkdir()
    kernel = Kernel.attach(CONFIG, SCOPE)
    entry = Entry(id=1, kind=Kind.SHA256, value=sha256(listed), verdict=Verdict.BLOCK)
    kernel.tables.load(Generation(encode([entry], generation=1, created_s=1)), time.time())
    time.sleep(SETTLED_S)
    codes = {
        "unknown": start(good), "known": start(good), "listed, unknown": start(listed), "listed, known": start(listed),
        "listed, copied": start(Path(shutil.copy(listed, PLACE / "copy"))),
    }  # fmt: skip
    batch = kernel.ring.drain()
    assert batch
    told = [event for event in decode_batch(*batch, print) if isinstance(event, Exec)]
    print(
        json.dumps(
            {
                "has_btf": pins.has_btf(),
                "hooks": kernel.hooks(),
                "codes": codes,
                "answered": [event.sha256 for event in told if event.held],
                "contents": [sha256(good), sha256(listed), sha256(listed)],
                "counters": kernel.tables.counters(),
            }
        )
    )


if __name__ == "__main__":
    main()
