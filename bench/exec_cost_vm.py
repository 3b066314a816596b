# SPDX-License-Identifier: Apache-2.0
"""What a start costs on a stock kernel beside fapolicyd and auditd: in a virtual machine, which they may have for them.

The packages are fetched by name into build/vm/peers, once, and unpacked inside the machine only. The machine's clock
counts instructions of the one processor on which a program, the agent and a peer take turns: what else this machine
does changes nothing, and what a daemon does meanwhile is in the figure. `--wall`: by time, on two; wants a machine at
rest.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import report
from bench.rig import own_disk, pristine, rig
from tests.vm import kernels, machine

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "vm" / "peers"
# The two, and what of their needs is in no small installation.
PACKAGES = (
    "fapolicyd", "auditd", "libcap-ng0", "liblmdb0", "libmagic1", "libmagic-mgc", "libseccomp2", "libaudit1",
    "libauparse0", "libgssapi-krb5-2", "libkrb5-3", "libkrb5support0", "libk5crypto3", "libkeyutils1", "libcom-err2",
    "libwrap0", "libnsl2", "libtirpc3",
)  # fmt: skip
STARTS = 300  # three times what the agent gathers: the share of its looks is in each repetition
START_TIMEOUT_S = 120
FAPOLICYD_CONF = """permissive = 0
nice_val = 14
q_size = 800
uid = 0
gid = 0
do_stat_report = 0
db_max_size = 50
subj_cache_size = 1549
obj_cache_size = 8191
watch_fs = {watch_fs}
trust = file
integrity = none
syslog_format = rule,dec,perm,auid,pid,exe,:,path,ftype
rpm_sha256_only = 0
allow_filesystem_mark = 0
"""


def fetch() -> None:
    """Download the packages that are not there yet."""
    PEERS.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(PEERS.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *missing], cwd=PEERS, check=True)


def unpack() -> None:
    """Inside the machine: put the packages onto its root file system, which is thrown away."""
    for package in sorted(PEERS.glob("*.deb")):
        files = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
        # /lib and /sbin are links: a directory in their place would leave the machine without its loader.
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", "/"], input=files, check=True)
    subprocess.run(["ldconfig"], check=True)
    subprocess.run(["modprobe", "loop"], check=True)


@contextmanager
def fapolicyd(watch_fs: str) -> Iterator[None]:
    """Ask fapolicyd about every start and open on file systems of type `watch_fs`; its one rule allows them."""
    etc = Path("/etc/fapolicyd")
    for directory in (etc, Path("/var/lib/fapolicyd"), Path("/run/fapolicyd")):
        directory.mkdir(parents=True, exist_ok=True)
    (etc / "fapolicyd.conf").write_text(FAPOLICYD_CONF.format(watch_fs=watch_fs))
    (etc / "compiled.rules").write_text("allow perm=any all : all\n")
    (etc / "fapolicyd.trust").write_text("")
    # It stays in the foreground and tells of refusals alone.
    with _daemon("/usr/sbin/fapolicyd", "--debug-deny") as (_pid, said):
        _await(lambda: "Starting to listen" in said(), said)
        yield


@contextmanager
def auditd() -> Iterator[None]:
    """Have every execve recorded and written by auditd, as the guides say."""
    Path("/var/log/audit").mkdir(parents=True, exist_ok=True)
    with _daemon("/sbin/auditd", "-n") as (pid, said):
        _await(lambda: f"pid {pid}\n" in _auditctl("-s"), said)
        _auditctl("-e", "1")
        _auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "execve")
        try:
            yield
        finally:
            _auditctl("-D")


def _auditctl(*words: str) -> str:
    return subprocess.run(["/sbin/auditctl", *words], capture_output=True, text=True, check=True).stdout


@contextmanager
def _daemon(*command: str) -> Iterator[tuple[int, Callable[[], str]]]:
    """Run a daemon in the foreground; yield its pid, and what tells all that it has said."""
    with tempfile.NamedTemporaryFile() as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            yield process.pid, lambda: Path(file.name).read_text(errors="replace")
        finally:
            process.terminate()
            process.wait(timeout=START_TIMEOUT_S)


def _await(is_ready: Callable[[], bool], said: Callable[[], str]) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        if time.monotonic() > end_s:
            raise SystemExit(f"a daemon did not start: {said()[-2000:]}")
        time.sleep(0.1)


def measure(rounds: int, *, is_wall: bool) -> None:
    """Inside the machine: measure, and leave the result in the directory that the host sees."""
    unpack()
    with rig() as bench, own_disk(bench.directory) as place:
        program = shutil.copy(bench.program, place)
        values = bench.alternate(
            {
                "pristine": pristine,
                "mamplus": bench.attached,
                "fapolicyd": lambda: fapolicyd("ext4"),
                "auditd": auditd,
                "fanotify daemon in C": lambda: bench.permitted_by("c", place),
            },
            lambda: bench.cost_us("exec", STARTS, program),
            rounds=rounds,
            what="exec_cost_vm",
        )
    base = median(values["pristine"])
    added = {name: median(series) - base for name, series in values.items()}
    report.write(
        "exec_cost_vm",
        title="fork + exec + wait of a static program, emulated" + ("" if is_wall else ", 1 ns an instruction"),
        unit="us",
        values=values,
        peer="pristine",
        starts_per_repetition=STARTS,
        added_us={name: round(value, 1) for name, value in added.items()},
        last_counters=bench.counters,
    )
    for path in report.RESULTS.glob("exec_cost_vm.*"):
        shutil.copy(path, machine.SHARE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kernel", default=kernels.SERIES[0], choices=kernels.SERIES)
    parser.add_argument("--timeout", type=float, default=900.0, metavar="S", help="for the whole machine")
    parser.add_argument("--wall", action="store_true", help="by the clock, on two processors")
    parser.add_argument("--inside", action="store_true", help="this is the machine: measure")
    arguments = parser.parse_args()
    if arguments.inside:
        measure(arguments.rounds, is_wall=arguments.wall)
        return 0
    fetch()
    command = [sys.executable, "-m", "bench.exec_cost_vm", "--inside", "--rounds", str(arguments.rounds)]
    command += ["--wall"] if arguments.wall else []
    with tempfile.TemporaryDirectory(prefix="mamplus-bench-") as share:
        kernel = kernels.find(arguments.kernel)
        done = machine.run(
            kernel, command, timeout_s=arguments.timeout, directory=ROOT, share=Path(share),
            is_counted=not arguments.wall,
        )  # fmt: skip
        report.RESULTS.mkdir(exist_ok=True)
        for path in Path(share).glob("exec_cost_vm.*"):
            shutil.copy(path, report.RESULTS)
    print(done.output, end="")
    return done.exit_code


if __name__ == "__main__":
    sys.exit(main())
