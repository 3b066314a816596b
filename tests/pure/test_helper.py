# SPDX-License-Identifier: Apache-2.0
"""Short-lived helpers: what they say is wrong is told in their words, what hangs is ended, the watchdog is fed."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.errors import ActionFailed, NetfilterFailed
from mamplus_host.executor import helper
from mamplus_host.executor.storage import luks

MEGABYTE = bytes(1 << 20)  # more than a pipe holds
Become = Callable[[str], None]


@pytest.fixture
def become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    """Makes every helper a shell script of that text."""

    def script(text: str) -> None:
        path = tmp_path / "helper"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(path))

    return script


def run(**more: Any) -> bytes:
    return helper.run("some_helper", "a word", **{"within_s": 60.0, "late": "it took too long", **more})


def test_it_gets_what_it_is_told_whole_and_what_it_prints_comes_back(become: Become) -> None:
    become('[ "$3 $4" = "mamplus_host.executor.some_helper a word" ] && cat')

    assert run(told=MEGABYTE) == MEGABYTE


def test_one_that_begins_to_listen_late_gets_all_of_it(become: Become) -> None:
    become("sleep 2; cat")

    assert run(told=MEGABYTE) == MEGABYTE


def test_one_that_does_not_listen_has_not_failed(become: Become) -> None:
    become("echo done")

    assert run(told=MEGABYTE) == b"done\n"


def test_its_last_line_of_stderr_is_what_was_wrong(become: Become) -> None:
    become("echo first >&2; echo 'no such table' >&2; exit 3")

    with pytest.raises(NetfilterFailed, match=r"^cannot look: no such table$"):
        run(what="cannot look: ", failed=NetfilterFailed)


def test_one_that_fails_without_a_word_is_told_by_its_code(become: Become) -> None:
    become("exit 3")

    with pytest.raises(ActionFailed, match="some_helper ended with code 3"):
        run()


def test_one_that_cannot_be_started_is_a_failure_with_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))

    with pytest.raises(ActionFailed, match=r"cannot look: some_helper does not run: .*No such file"):
        run(what="cannot look: ")


def test_one_that_hangs_is_ended_and_its_caller_goes_on(become: Become) -> None:
    become("exec sleep 3600")
    beats: list[None] = []

    with pytest.raises(ActionFailed, match=r"^it took too long$"):
        run(within_s=2.5, told=MEGABYTE, alive=lambda: beats.append(None))

    assert len(beats) >= 2, "the watchdog is fed while it is waited for"


def test_one_that_cannot_be_ended_keeps_nobody_waiting(become: Become, monkeypatch: pytest.MonkeyPatch) -> None:
    become("exec sleep 30")
    left = list["subprocess.Popen[bytes]"]()
    monkeypatch.setattr(helper, "END_S", 0.1)

    def not_let_go(process: "subprocess.Popen[bytes]") -> None:  # as one that waits for a dead disk
        left.append(process)

    with monkeypatch.context() as deaf:
        deaf.setattr(subprocess.Popen, "kill", not_let_go)
        with pytest.raises(ActionFailed, match=r"^it took too long$"):
            run(within_s=0.1)

    (process,) = left
    assert process.poll() is None
    process.kill()
    process.wait()


def test_an_agent_that_stops_ends_the_helper_of_one_thread_and_no_other(become: Become) -> None:
    become("exec sleep 20")
    said: dict[str, str] = {}

    def wait(name: str) -> None:
        with pytest.raises(ActionFailed) as caught:
            run(within_s=10.0)
        said[name] = str(caught.value)

    threads = {name: threading.Thread(target=wait, args=(name,)) for name in ("stopped", "other")}
    for thread in threads.values():
        thread.start()
    while threads["stopped"].is_alive():
        helper.end_of(threads["stopped"])
        threads["stopped"].join(0.01)
    threads["other"].join()

    assert said == {"stopped": "some_helper does not run: the agent stops", "other": "it took too long"}


def test_it_gets_the_descriptors_that_it_is_to_have(become: Become, tmp_path: Path) -> None:
    become('echo written >"/proc/self/fd/$5"')
    with (tmp_path / "file").open("wb") as file:
        helper.run("some_helper", "a word", str(file.fileno()), within_s=60.0, late="late", keeps=(file.fileno(),))

    assert (tmp_path / "file").read_bytes() == b"written\n"


def ended(job: Callable[[], object]) -> list[str]:
    """Have a thread do a job twice, end what it waits for, and return how its work went."""
    failures = list[str]()

    def work() -> None:
        for _ in range(2):
            try:
                job()
            except (ActionFailed, OSError) as error:
                failures.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while thread not in helper._running:
        os.sched_yield()
    helper.end_of(thread)
    thread.join()
    return failures


def test_a_thread_whose_helper_was_ended_with_the_agent_starts_no_other(become: Become) -> None:
    become("exec sleep 3600")

    assert ended(run) == ["some_helper does not run: the agent stops"] * 2


def test_cryptsetup_ends_with_the_agent_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cryptsetup").write_text("#!/bin/sh\nexec sleep 3600\n")
    (tmp_path / "cryptsetup").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert ended(lambda: luks.is_there("/dev/none", "uuid")) == ["the agent stops"] * 2  # and not that it is gone
