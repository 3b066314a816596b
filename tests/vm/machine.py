# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that runs one command on a stock kernel, on this machine's own root file system.

    run(kernel, ["uname", "-r"], timeout_s=300) -> Result(exit_code, output, console)

QEMU emulates in software: a nested KVM is not everywhere, and where it is it may not work. So
what is slow here says nothing; behaviour does. The guest reads this machine's files and writes
none of them: what it writes is thrown away, except below the `share`, a directory of the host.

The guest reports through files of the share, so what the kernel prints cannot get in between.
"""

import contextlib
import fcntl
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm import initramfs
from tests.vm.kernels import ROOT, StockKernel, modules

HERE = Path(__file__).resolve().parent
WORK = ROOT / "build" / "vm"
MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "ext4", "overlay")
BUSYBOX = Path("/bin/busybox")
LOCK_VARIABLE = "MAMPLUS_VM_LOCK"
SHARE = Path("/run/mamplus-vm/share")  # where the guest sees the share
OF_THE_GUEST = (Path("/tmp"), Path("/run"))  # it has its own, and sees nothing of ours there
SCRATCH_BYTES = 4 << 30  # a sparse file: what the guest may write
MEMORY = "3G"
CPUS = 2
BOOTS = 3  # tries, where the machine falls over its own patching
# The emulator may run a breakpoint that another processor's kernel has just patched out: often with a thread for each
# processor, which therefore share one.
PATCHING = "Oops: int3"
# One nanosecond of the guest's clock is one instruction. One processor: a second one never comes up under this clock.
COUNTED = ("-icount", "shift=0,sleep=on", "-smp", "1")
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # also when this process is killed
# Mitigations guard nothing in an emulated processor and cost it half its speed. That the timer ticks is not checked:
# the kernel gives it ten ticks, and panics when a busy machine holds the emulator up meanwhile.
KERNEL_COMMAND_LINE = "console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check"


class MachineFailed(Exception):
    """The command did not run to its end: no boot, a panic, or too slow. The message ends with the console."""


@dataclass(frozen=True)
class Result:
    """What one command did: as `subprocess` says it, both streams in one."""

    exit_code: int
    output: str
    console: str  # what the kernel printed


def run(
    kernel: StockKernel,
    command: Sequence[str],
    *,
    timeout_s: float,
    directory: Path | None = None,
    share: Path | None = None,
    is_counted: bool = False,
) -> Result:
    """Boot `kernel`, run `command` in `directory` as root, and return what it did; MachineFailed if it did not end.

    `share` is a directory whose content the guest sees and may change, at SHARE. `is_counted`: its clock counts
    instructions, so that what else runs on this machine changes no time in it.
    """
    require_seen(ROOT)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_at_a_time())
        WORK.mkdir(parents=True, exist_ok=True)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=WORK)))
        share = share or work / "share"
        share.mkdir(exist_ok=True)
        for _ in range(BOOTS):
            _prepare(kernel, command, directory or Path.cwd(), work, share)
            timed_out = _emulate([*qemu_command(kernel, work, share), *(COUNTED if is_counted else ())], timeout_s)
            console = (work / "console").read_text(errors="replace")
            if timed_out or PATCHING not in console:
                break
        return _result(share, console, f"{timeout_s:.0f} s" if timed_out else "")


def qemu_command(kernel: StockKernel, work: Path, share: Path) -> list[str]:
    """Return the command line; `work` holds what _prepare made."""
    return [
        *ENDS_WITH_US, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35", "-accel", "tcg,thread=single,tb-size=1024", "-cpu", "max", "-smp", str(CPUS), "-m", MEMORY,
        "-kernel", str(kernel.image), "-initrd", str(work / "initramfs"), "-append", KERNEL_COMMAND_LINE,
        "-serial", f"file:{work / 'console'}",
        "-virtfs", "local,path=/,mount_tag=machine,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={share},mount_tag=share,security_model=none",
        "-drive", f"file={work / 'scratch'},format=raw,if=virtio,cache=unsafe",
    ]  # fmt: skip


def require_seen(tree: Path) -> None:
    """MachineFailed when the guest, which runs what is in `tree`, would not see it."""
    for place in OF_THE_GUEST:
        if tree.is_relative_to(place):
            raise MachineFailed(f"{tree} lies below {place}, of which the machine has its own; clone it elsewhere")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for the lock that MAMPLUS_VM_LOCK names, for machines that several people share."""
    path = os.environ.get(LOCK_VARIABLE)
    if not path:
        yield
        return
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare(kernel: StockKernel, command: Sequence[str], directory: Path, work: Path, share: Path) -> None:
    (work / "initramfs").write_bytes(_initramfs(kernel))
    with (work / "scratch").open("wb") as scratch:
        scratch.truncate(SCRATCH_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", work / "scratch"], check=True)
    (work / "console").touch()
    (share / "kernel").write_text(str(kernel.directory))
    (share / "directory").write_text(str(directory))
    (share / "command").write_text(shlex.join(command) + "\n")
    for name in ("exit", "output"):
        (share / name).unlink(missing_ok=True)


def _initramfs(kernel: StockKernel) -> bytes:
    needed = modules(kernel, *MODULES)
    init = (HERE / "guest-init").read_text().replace("@GUEST@", str(HERE / "guest-run"))
    files = [("init", init.encode()), ("busybox", BUSYBOX.read_bytes())]
    files += [(f"modules/{name}", content) for name, content in needed]
    files.append(("modules/order", "".join(f"{name}\n" for name, _content in needed).encode()))
    return initramfs.archive(files)


def _emulate(command: Sequence[str], timeout_s: float) -> bool:
    """Run QEMU until the guest powers off; say whether it had to be killed."""
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return True
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineFailed(f"QEMU failed: {error}") from None
    return False


def _result(share: Path, console: str, late: str) -> Result:
    exit_file, output_file = share / "exit", share / "output"
    output = output_file.read_text(errors="replace") if output_file.exists() else ""
    if not exit_file.exists():
        seen = f"ran longer than {late}" if late else "ended before its command did"
        raise MachineFailed(f"the machine {seen}; it said:\n{output[-4000:]}\nits console:\n{console[-4000:]}")
    return Result(int(exit_file.read_text()), output, console)
