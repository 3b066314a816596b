# SPDX-License-Identifier: Apache-2.0
"""Under a flood of starts and connections nothing is let through and nothing is lost uncounted."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from story.actors import CALL, PYTHON, died_of, variant
from story.stage import Device, Enterprise, Stage, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]
SECONDS, CORES, TRIES, LISTED = 20, 2, 100, "203.0.113.7"
CLOSED_PORT = 9  # answers at once, so that connect(2) never waits
SOURCE = Path(__file__).parent / "programs" / "flood.c"

# Tries an address TRIES times, spread over the flood; prints how often it was refused with EPERM.
TRY_ADDRESS = """
import socket, sys, time
refused = 0
for _ in range(int(sys.argv[2])):
    with socket.socket() as sock:
        sock.settimeout(1)
        try:
            sock.connect((sys.argv[1], 9))
        except PermissionError:
            refused += 1
        except OSError:
            pass
    time.sleep(float(sys.argv[3]))
print(refused)
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(stack)


def protected_device(stage: Stage, digest: str) -> Device:
    enterprise = Enterprise(stage)
    enterprise.run("ble", "add", "sha256", digest, "--verdict", "block")
    enterprise.run("ble", "add", "ip", LISTED, "--verdict", "block")
    enterprise.run("ble", "publish")
    enterprise.start()
    device = Device(stage, "flooded")
    device.run("enroll", enterprise.url, "--token", enterprise.run("token", "new").split()[-1])
    device.run("ble", "refresh")
    device.start()
    return device


def test_a_flood_lets_nothing_through_and_every_record_is_consumed_or_counted(stage: Stage) -> None:
    flood = stage.disk / "flood"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(flood)], check=True)
    digest = variant("/usr/bin/touch", stage.disk / "listed", "flooded")
    device, marker = protected_device(stage, digest), stage.disk / "marker"
    running = [
        stage.spawn(
            flood, SECONDS, "/bin/true", "203.0.113.8", CLOSED_PORT, cgroup=device.cgroup, stdout=subprocess.PIPE
        )
        for _ in range(CORES)
    ]
    pause_s = SECONDS * 0.8 / TRIES
    tries = stage.spawn(
        PYTHON, "-c", TRY_ADDRESS, LISTED, TRIES, pause_s, cgroup=device.cgroup, stdout=subprocess.PIPE, text=True
    )
    ends = []
    for number in range(TRIES):
        copy = stage.disk / f"copy-{number}"
        shutil.copy(stage.disk / "listed", copy)
        ends.append(died_of(stage.spawn(copy, marker, cgroup=device.cgroup)))
        copy.unlink()
        time.sleep(pause_s / 2)

    assert ends == ["signal 9"] * TRIES
    assert not marker.exists()
    assert tries.communicate(timeout=60)[0].strip() == str(TRIES)
    made = [tuple(map(int, process.communicate(timeout=60)[0].split())) for process in running]
    starts = sum(pair[0] for pair in made)

    def settled() -> bool:
        status = device.ask("status")
        return bool(status["kernel"]["produced"] == status["pipeline"]["ring_events"] + status["losses"]["malformed"])

    wait_for("every record that was produced to be consumed", settled)
    status = device.ask("status")
    kernel = status["kernel"]
    assert kernel["produced"] + kernel["lost"] >= 3 * starts  # fork, exec, exit of each
    assert kernel["refused"] >= 2 * TRIES
    print(f"{starts / SECONDS:.0f} starts/s, {sum(pair[1] for pair in made) / SECONDS:.0f} connects/s: {kernel}")


def test_the_address_test_program_sees_an_open_address_as_open(stage: Stage) -> None:
    """Guards the test above: without an agent nothing is refused."""
    cgroup = stage.cgroup(f"mamplus-flood-{stage.tag}")
    process = stage.spawn(
        PYTHON, "-c", CALL, "connect", "203.0.113.8", 9, cgroup=cgroup, stdout=subprocess.PIPE, text=True
    )

    assert process.communicate(timeout=30)[0].strip() == "ECONNREFUSED"
