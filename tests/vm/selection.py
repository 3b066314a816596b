# SPDX-License-Identifier: Apache-2.0
"""The tests that run inside a virtual machine, and what each of them said there."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.attacks import payloads
from tests.kernel import compiled
from tests.vm import machine, report
from tests.vm.kernels import ROOT, StockKernel

# What stands or falls with the kernel. The emulation takes ten seconds of a processor and more for each test that
# attaches an agent of its own, so what is decided in user space (the vault, the table builder, exports) is left to the
# machine's own kernel.
_WANTED = (
    "features.py", "verifier.py", "hold.py::test_whoever_seizes_a_held_program_ends_it",
    "hold.py::test_who_is_refused_does_not_run_before_its_sigkill_comes", "lsm_exec.py", "file_guard.py",
    "lsm_guard.py", "doctor_lsm.py",
    # What runs already is looked at again; the fanotify tier.
    "sweep.py", "watch.py",
    # Pins and links outlive the agent, and another release takes over: what else these two files ask is the doing of
    # processes (who copies hashes, finds a predecessor, beats), and takes half as long again.
    "adoption.py::test_a_killed_agent_leaves_everything_enforced_and_the_next_adopts_it",
    "adoption.py::test_everything_is_attached_and_detach_removes_all_of_it_and_nothing_else",
    "adoption.py::test_an_attach_that_was_cut_off_is_not_adopted",
    "upgrade.py::test_what_is_listed_is_refused_at_every_moment_of_a_hand_over",
    "upgrade.py::test_hooks_of_guarded_paths_that_stand_before_the_old_ones_go_are_whole_after_it",
    "upgrade.py::test_a_start_that_waits_for_the_old_responder_is_answered",
    # Starts as they are held without BPF LSM; what stands without an agent.
    "exec.py", "standing.py",
    # What the kernel of a developer's machine may lack: simulated radios and USB devices, the device mapper.
    "radio.py::test_real_routes_say_which_interface_leads_there",
    "radio.py::test_the_kernels_own_switch_goes_off_and_comes_back",
    "radio.py::test_a_power_cut_before_the_kernels_switch_is_finished",
    "usb.py::test_a_real_device_loses_its_drivers_and_gets_them_back",
    "usb.py::test_a_real_stick_with_btrfs_is_found_by_its_file_system",
    "wipe.py::test_an_open_container_is_unmounted_and_closed_by_a_wipe",
    "wipe.py::test_a_container_in_use_is_suspended_by_a_lock_and_its_passphrase_brings_it_back",
)  # fmt: skip
# Files of which nothing is selected, by the reason. A new file of tests/kernel is here or above.
LEFT_OUT = {
    "decided in user space; the system calls below it are older than each kernel here":
        "accepting accepting_writers bad_input bench_ends cut dead_man deeds_on_processes dpkg exec_path exports files"
        " freeze freeze_held hash_files mount_control protecting quarantine ransom registry sessions snapshot stopping"
        " vault vault_execute vault_trees",
    "tables, the ring and the network's hooks: each kernel has them, and verifier.py has their programs taken":
        "connect counters flood names netfilter packet refuse second_layer suspicion tables tables_filling"
        " tables_patch",
    "a whole agent for each test, of a minute each here":
        "device_agent doctor doctor_agent guarding isolate story story_cleanup tamper",
    "tests/vm/test_no_deadlock.py holds up a whole machine of each kernel": "no_deadlock no_deadlock_files",
    "tests/vm/test_without_btf.py has a kernel without BTF": "bcc_exec bcc_shell",
    "a thread of it is to run on each processor, and the emulation runs one at a time: once of nine rounds a writer got"
    " past the limit on 6.12; in all others, and on 6.1, none": "brake",
    "26 disks of ext4, 472 s on 6.12: what is written and synced is the agent's part, and no version's": "power_off",
}  # fmt: skip
PLACES = (*(f"tests/kernel/test_{name}" for name in _WANTED), "tests/attacks/test_attacks_lsm.py")
# Both kernels have what these files need, so a test that skips there hides something; but for these, and why.
MAY_SKIP: dict[str, str] = {}
# One process: the emulator has one thread, and while self-protection stands it refuses what other workers do.
_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist")
_TEST_TIMEOUT_S = 900  # of a test that names none; with setting up what it shares


@dataclass(frozen=True)
class Outcome:
    """What one test said: "passed", "failed" or "skipped", and why."""

    outcome: str
    text: str


@dataclass(frozen=True)
class Run:
    """All that one machine told. `trouble` says why it did not reach its end, "" when it did."""

    outcomes: dict[str, Outcome]
    output: str
    trouble: str


def collected(*selection: str) -> list[str]:
    """Return the names of the tests that `selection` (paths, or other pytest arguments) names."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [*_PYTEST, "--collect-only", "-q", *(selection or PLACES)]
    done = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"no tests are selected by {' '.join(selection or PLACES)}: {done.stdout[-2000:]}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def run(kernel: StockKernel, share: Path, *selection: str, timeout_s: float) -> Run:
    """Run the tests of `selection` on `kernel`; what the machine tells lies in `share`, a directory."""
    results, programs, attacking = (share / name for name in ("results.jsonl", "programs", "attack-programs"))
    results.unlink(missing_ok=True)
    programs.mkdir(parents=True, exist_ok=True)
    compiled.build(programs)
    payloads.build(attacking)
    named = {report.VARIABLE: results, compiled.VARIABLE: programs, payloads.VARIABLE: attacking}
    variables = [f"{name}={machine.SHARE / path.name}" for name, path in named.items()]
    options = ["-p", "tests.vm.report", "-o", f"timeout={_TEST_TIMEOUT_S}"]
    command = ["env", *variables, *_PYTEST, *options, *(selection or PLACES)]
    trouble = output = ""
    try:
        output = machine.run(kernel, command, timeout_s=timeout_s, directory=ROOT, share=share).output
    except machine.MachineFailed as error:
        trouble = str(error)
    return Run(told(results.read_text() if results.exists() else ""), output, trouble)


def told(lines: str) -> dict[str, Outcome]:
    """Return the outcome of each test; a last line that was cut off is left out."""
    found = {}
    for line in lines.splitlines(keepends=True):
        if line.endswith("\n"):
            said: dict[str, str] = json.loads(line)
            found[said["test"]] = Outcome(said["outcome"], said["text"])
    return found


def fault(name: str, said: Outcome) -> str:
    """Return what is wrong with an outcome, "" for nothing: a skip is, unless a stock kernel lacks what is tested."""
    if said.outcome == "failed":
        return said.text
    if said.outcome == "skipped" and not any(fnmatchcase(name, pattern) for pattern in MAY_SKIP):
        return f"it was skipped where what it needs is there: {said.text}"
    return ""


def summary(ran: Run) -> dict[str, int]:
    """Return how many tests had which outcome."""
    return dict(Counter(said.outcome for said in ran.outcomes.values()))
