# SPDX-License-Identifier: Apache-2.0
"""The steps of the story, in order. Each returns what it saw, for the timeline, or raises StoryFailed."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from story.actors import CALL, COUNT, KEEP, PYTHON, SHOP, died_of, variant
from story.stage import Device, Enterprise, Stage, StoryFailed, command, wait_for

LISTED, LISTED6, LATER, DOMAIN = "203.0.113.7", "2001:db8::7", "198.51.100.9", "bad.example"
TRIES = 20


class Play:
    """The cast, and what later steps need of earlier ones."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.enterprise = Enterprise(stage)
        self.devices = [Device(stage, "handheld-1"), Device(stage, "handheld-2", netns=stage.make_netns("-2"))]
        self.device = self.devices[0]
        self.disk = stage.disk
        self.figures: dict[str, float] = {}
        self.start_latency_ms = 0.0


def want(claim: object, what: str) -> None:
    if not claim:
        raise StoryFailed(what)


def run_in(play: Play, *words: object, device: Device | None = None) -> str:
    """Run a program in the device's scope and return what it printed, or how it ended."""
    cgroup = (device or play.device).cgroup
    process = play.stage.spawn(*words, cgroup=cgroup, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=30)
    return out.decode().strip() or died_of(process)


def call(play: Play, how: str, host: str, port: int = 9) -> str:
    return run_in(play, PYTHON, "-c", CALL, how, host, port)


def everywhere(play: Play, generation: int) -> None:
    for device in play.devices:
        _reach(device, generation)


# --- 1 -----------------------------------------------------------------------------------------


def enrol(play: Play) -> str:
    digest = variant("/usr/bin/touch", play.disk / "listed", "listed")
    variant("/usr/bin/touch", play.disk / "unlisted", "unlisted")
    enterprise = play.enterprise
    enterprise.run("ble", "add", "sha256", digest, "--verdict", "block", "--reason", "story: listed program")
    for value in (LISTED, LISTED6):
        enterprise.run("ble", "add", "ip", value, "--verdict", "block", "--reason", "story: listed address")
    enterprise.run("ble", "add", "cidr", "198.18.0.0/15", "--verdict", "block", "--reason", "story: listed network")
    enterprise.run("ble", "add", "domain", DOMAIN, "--verdict", "block", "--reason", "story: listed domain")
    enterprise.run("ble", "publish")
    enterprise.start()
    for device in play.devices:
        token = enterprise.run("token", "new").strip().splitlines()[-1]
        url = enterprise.url if device is play.device else enterprise.page  # --dev answers both on one port
        device.run("enroll", url, "--token", token, "--name", device.name)
        device.run("ble", "refresh")
        device.start()
    generation = play.device.generation()
    everywhere(play, generation)
    checked = json.loads(
        command("mamplus", "check", "sha256", digest, "--json", "--config", play.device.config, ok=False)
    )
    want(
        checked["blocked"] and checked["generation"] == generation, f"check does not know the listed program: {checked}"
    )
    return f"two devices enrolled; generation {generation} verified and in BPF maps"


# --- 2 -----------------------------------------------------------------------------------------


def refuse_program(play: Play) -> str:
    marker = play.disk / "marker"
    latencies = []
    for number in range(TRIES):
        copy = play.disk / f"holiday-photos-{number}"
        shutil.copy(play.disk / "listed", copy)
        begun = time.monotonic()
        process = play.stage.spawn(copy, marker, cgroup=play.device.cgroup)
        how = died_of(process)
        latencies.append((time.monotonic() - begun) * 1000)
        want(how == "signal 9" and not marker.exists(), f"the listed program ran as {copy.name}: {how}")
    play.figures["start of an unknown listed copy to killed, ms (median)"] = statistics.median(latencies)
    known = []
    for _ in range(TRIES):
        begun = time.monotonic()
        how = died_of(play.stage.spawn(copy, marker, cgroup=play.device.cgroup))
        known.append((time.monotonic() - begun) * 1000)
        want(how == "signal 9" and not marker.exists(), f"the listed program ran the second time: {how}")
    play.figures["start of a known listed file to killed, ms (median)"] = statistics.median(known)
    want(
        run_in(play, play.disk / "unlisted", marker) == "exit 0" and marker.exists(), "an unlisted program did not run"
    )
    alert = wait_for("the alert", lambda: play.device.alerts(kind="exec", finding="confirmed"))[0]
    want("holiday-photos" in alert["evidence"]["lineage"][0]["path"], f"the alert does not name the program: {alert}")
    return f"{2 * TRIES} starts under {TRIES} new names refused before their first instruction; an unlisted one ran"


# --- 3 -----------------------------------------------------------------------------------------


def refuse_address(play: Play) -> str:
    for how in ("connect", "sendto"):
        for host in (LISTED, LISTED6, f"::ffff:{LISTED}", "198.18.5.5"):
            answer = call(play, how, host)
            want(answer == "EPERM", f"{how} to {host} gave {answer}, want EPERM")
    want(call(play, "sendto", "203.0.113.8") == "ok", "an unlisted address was refused")
    return "connect() and sendto() to the listed address: EPERM over IPv4, IPv6, v4-mapped and by network"


def refuse_domain(play: Play) -> str:
    query = """
import socket, sys
def q(name):
    out = b"\\x12\\x34\\x01\\x00\\x00\\x01" + bytes(6)
    for label in name.split("."):
        out += bytes([len(label)]) + label.encode()
    return out + b"\\0\\0\\x01\\0\\x01"
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    sock.sendto(q(sys.argv[1]), ("192.0.2.1", 53))
    print("sent")
except PermissionError:
    print("EPERM")
"""
    for name in (DOMAIN, "WWW.Bad.Example", "a.b.bad.example"):
        answer = run_in(play, PYTHON, "-c", query, name)
        want(answer == "EPERM", f"a query for {name} gave {answer}, want EPERM")
    want(run_in(play, PYTHON, "-c", query, "notbad.example") == "sent", "a query for an unlisted name was refused")
    return "DNS queries for the listed domain and its sub-domains never leave; others do"


def cut_connected(play: Play) -> str:
    with play.stage.in_netns():
        listener = socket.create_server((LATER, 0))
    port = listener.getsockname()[1]
    process = play.stage.spawn(PYTHON, "-c", KEEP, LATER, port, cgroup=play.device.cgroup, stdout=subprocess.DEVNULL)
    peer, _ = listener.accept()
    peer.settimeout(2)
    want(peer.recv(64), "nothing arrived before the entry")
    begun = time.monotonic()
    play.enterprise.run("ble", "add", "ip", LATER, "--verdict", "block", "--reason", "story: listed later")
    play.enterprise.run("ble", "publish")
    everywhere(play, json.loads(play.enterprise.run("ble", "list", "--json").splitlines()[0]).get("generation", 0))
    wait_for("the packets' end", lambda: _is_silent(peer), timeout_s=15)
    took = time.monotonic() - begun
    want(process.poll() is None, "the program with the open socket ended by itself")
    alert = wait_for("a report of the netfilter rule", lambda: play.device.alerts(kind="packet"))
    process.kill()
    listener.close()
    peer.close()
    return f"an open connection fell silent {took:.1f} s after `ble add`; {len(alert)} packet alert, one rule each way"


def _is_silent(peer: socket.socket) -> bool:
    peer.settimeout(1.0)
    try:
        while peer.recv(1 << 16):
            return False
        return True
    except TimeoutError:
        return True


# --- 4 -----------------------------------------------------------------------------------------

DAMAGE: dict[str, str] = {
    "overwritten": "printf DAMAGED > {file}",
    "appended": "printf MORE >> {file}",
    "truncated": "truncate -s 3 {file}",
    "deleted": "rm {file}",
    "renamed over": "printf OTHER > {file}.new && mv {file}.new {file}",
    "renamed away": "mv {file} {file}.gone && rm {file}.gone",
    "made executable": "chmod 777 {file}",
    "given away": "chown 1234:1234 {file}",
    "xattr changed": "setfattr -n user.story -v changed {file}",
}


def _facts(path: Path) -> tuple[Any, ...]:
    info = path.stat()
    xattrs = tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
    return path.read_bytes(), info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, xattrs


def restore_file(play: Play) -> str:
    folder = play.disk / "etc"
    folder.mkdir()
    file = folder / "scanner.conf"
    file.write_bytes(b"gateway = 203.0.113.8\n" * 200)
    file.chmod(0o640)
    os.chown(file, 12, 34)
    os.setxattr(file, "user.story", b"kept")
    os.utime(file, ns=(1_700_000_000_123_456_789, 1_700_000_001_987_654_321))
    before = _facts(file)
    play.device.run("protect", file)
    latencies = []
    for name, script in DAMAGE.items():
        seen = len(play.device.alerts(kind="file"))
        run_in(play, "/bin/sh", "-c", script.format(file=file))
        begun = time.monotonic()
        wait_for(f"the {name} file to be back", lambda: _facts(file) == before, every_s=0.0005)
        latencies.append((time.monotonic() - begun) * 1000)
        alerts = wait_for("its alert", partial(_more_alerts, play.device, "file", seen))
        want(
            any(word in alerts[-1]["summary"] for word in ("sh", "mv", "rm", script.split()[0])),
            f"no writer: {alerts[-1]}",
        )
    play.figures["damaged file back in place, ms after the damaging command ended (median)"] = statistics.median(
        latencies
    )
    return (
        f"{len(DAMAGE)} kinds of damage ({', '.join(DAMAGE)}): back byte for byte, with mode, owner, times and xattrs"
    )


# --- 5, 6 --------------------------------------------------------------------------------------


class Suspect:
    """A program dropped into a world-writable directory and started by a shop that listens."""

    def __init__(self, play: Play, name: str) -> None:
        self.play = play
        self.cgroup = play.device.cgroup / name
        self.cgroup.mkdir()
        drop = play.disk / f"tmp-{name}"
        drop.mkdir()
        drop.chmod(0o1777)
        self.program, self.counter, self.starts = drop / "update", drop / "count", 0
        self.digest = variant("/bin/bash", self.program, name)
        shop = play.stage.spawn(PYTHON, "-c", SHOP, cgroup=self.cgroup, stdout=subprocess.PIPE, text=True)
        assert shop.stdout is not None
        self.port = int(shop.stdout.readline())

    def start(self) -> int:
        """Have the shop start the program, which counts into a file of its own; returns its pid."""
        self.starts += 1
        self.counter = self.program.parent / f"count-{self.starts}"
        with self.play.stage.in_netns():
            sock = socket.create_connection(("203.0.113.8", self.port), timeout=10)
        with sock:
            words = [str(self.program), "-c", COUNT.format(file=self.counter)]
            sock.sendall("\t".join(words).encode() + b"\n")
            return int(sock.makefile().readline())

    def end(self) -> None:
        """End the shop and what it started."""
        (self.cgroup / "cgroup.kill").write_text("1")

    def counts(self) -> bool:
        """Say whether the program still moves."""
        before = self.counter.read_text() if self.counter.exists() else ""
        time.sleep(0.3)
        return (self.counter.read_text() if self.counter.exists() else "") != before

    def alert(self) -> dict[str, Any]:
        def mine() -> list[dict[str, Any]]:
            return [
                a
                for a in self.play.device.alerts(kind="exec", finding="suspected")
                if a["indicator"]["value"] == self.digest
            ]

        return dict(wait_for(f"the suspicion about {self.program}", mine)[0])

    def escalation(self) -> dict[str, Any]:
        wanted = self.alert()["id"]

        def there() -> list[dict[str, Any]]:
            return [a for a in self.play.enterprise.api("/v1/admin/alerts?state=open") if a["id"] == wanted]

        return dict(wait_for("the escalation at the enterprise", there)[0])


def confirm(play: Play) -> str:
    suspect = Suspect(play, "shop-a")
    pid = suspect.start()
    escalation = suspect.escalation()
    want(not suspect.counts(), "the suspected program still runs")
    evidence = json.dumps(escalation)
    for needed in (suspect.digest, "203.0.113.8", "lineage"):
        want(needed in evidence, f"the evidence lacks {needed}: {evidence}")
    begun = time.monotonic()
    answer = play.enterprise.api(f"/v1/admin/alerts/{escalation['id']}/confirm", {"reason": "story"})
    seconds: dict[str, float] = {}
    watchers = [
        threading.Thread(target=_protected, args=(device, answer["generation"], begun, seconds))
        for device in play.devices
    ]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    want(len(seconds) == len(play.devices), "not every device has the new generation")
    wait_for("the frozen program's end", lambda: _is_gone(pid))
    for device in play.devices:
        how = run_in(play, suspect.program, "-c", "exit 7", device=device)
        want(how == "signal 9", f"on {device.name} the confirmed program ran: {how}")
    play.figures['"confirm" to protected, s (slowest device)'] = max(seconds.values())
    slowest = max(seconds.values())
    return (
        f"frozen, escalated with evidence, confirmed: killed; refused on {len(seconds)} devices after {slowest:.2f} s"
    )


def _protected(device: Device, generation: int, begun: float, seconds: dict[str, float]) -> None:
    _reach(device, generation)
    seconds[device.name] = time.monotonic() - begun


def _reach(device: Device, generation: int) -> None:
    wait_for(f"generation {generation} on {device.name}", lambda: device.generation() >= generation, timeout_s=30)


def _more_alerts(device: Device, kind: str, than: int) -> list[dict[str, Any]]:
    found = device.alerts(kind=kind)
    return found if len(found) > than else []


def _is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def dismiss(play: Play) -> str:
    suspect = Suspect(play, "shop-b")
    suspect.start()
    escalation = suspect.escalation()
    want(not suspect.counts(), "the suspected program still runs")
    begun = time.monotonic()
    play.enterprise.api(f"/v1/admin/alerts/{escalation['id']}/dismiss", {"reason": "story"})
    wait_for("the thaw", suspect.counts, timeout_s=30)
    took = time.monotonic() - begun
    seen = len(play.device.alerts(finding="suspected"))
    suspect.start()
    wait_for("the second start of the dismissed program to run", suspect.counts)
    want(len(play.device.alerts(finding="suspected")) == seen, "the dismissed program was escalated again")
    suspect.end()
    return f"frozen, escalated, dismissed: it runs again {took:.2f} s later, and is not asked about again"


# --- 7, 8 --------------------------------------------------------------------------------------


def _hold_two_and_three(play: Play, name: str) -> None:
    copy, marker = play.disk / name, play.disk / f"{name}-ran"
    shutil.copy(play.disk / "listed", copy)
    how = died_of(play.stage.spawn(copy, marker, cgroup=play.device.cgroup))
    want(how == "signal 9" and not marker.exists(), f"a new copy of the listed program ran: {how}")
    want(call(play, "connect", LISTED) == "EPERM", "the listed address was not refused")
    want(
        run_in(play, play.disk / "unlisted", marker) == "exit 0" and marker.exists(), "an unlisted program did not run"
    )


def outage(play: Play) -> str:
    play.enterprise.stop()
    _hold_two_and_three(play, "offline-copy")
    file = play.disk / "etc" / "scanner.conf"
    before = _facts(file)
    run_in(play, "/bin/sh", "-c", DAMAGE["truncated"].format(file=file))
    wait_for("the file to be back", lambda: _facts(file) == before)
    suspect = Suspect(play, "shop-c")
    suspect.start()
    suspect.alert()
    queued = play.device.ask("status")["outbox"]["queued"]
    want(queued >= 2, f"only {queued} escalations wait")
    mine = [alert["id"] for alert in play.device.alerts()]
    begun = time.monotonic()
    play.enterprise.start()
    wait_for("an empty queue", lambda: play.device.ask("status")["outbox"]["queued"] == 0, timeout_s=60)
    took = time.monotonic() - begun
    stored = [a for a in reversed(play.enterprise.api("/v1/admin/alerts?state=all")) if a["id"] in mine]
    ids = [alert["id"] for alert in stored]
    want(len(ids) == len(set(ids)), "an escalation arrived twice")
    want(set(ids) == set(mine), f"{len(set(mine) - set(ids))} escalations are missing")
    sequence = [alert["seq"] for alert in sorted(stored, key=lambda alert: str(alert["id"]))]
    want(sequence == sorted(sequence), f"numbers out of order: {sequence}")
    return f"enforcement held alone; {queued} escalations arrived {took:.1f} s after the enterprise was back, once each"


def killed(play: Play) -> str:
    play.device.kill()
    _hold_two_and_three(play, "orphan-copy")
    refused: list[str] = []
    stop = threading.Event()
    watcher = threading.Thread(target=_keep_trying, args=(play, stop, refused))
    watcher.start()
    ready = play.device.start()
    time.sleep(0.5)
    stop.set()
    watcher.join()
    want("adopted" in ready, f"the new agent did not adopt what was pinned: {ready}")
    want(refused and set(refused) == {"EPERM"}, f"a gap while the new agent started: {refused}")
    wait_for("a working new agent", lambda: play.device.ask("status")["ble"]["generation"])
    _hold_two_and_three(play, "adopted-copy")
    tries = len(refused)
    return f"killed with -9: programs and addresses stay refused; the next agent adopted, no gap in {tries} tries"


def _keep_trying(play: Play, stop: threading.Event, answers: list[str]) -> None:
    while not stop.is_set():
        answers.append(call(play, "connect", LISTED))


def _idle(play: Play) -> str:
    assert play.device.agent is not None
    pid = play.device.agent.pid
    time.sleep(3)  # it has just been started anew
    before, seconds = _cpu_s(pid), 10.0
    time.sleep(seconds)
    rss = next(
        int(line.split()[1])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    play.figures["agent's memory while idle, MB resident"] = rss / 1024
    play.figures["agent's CPU while idle, % of one core"] = 100 * (_cpu_s(pid) - before) / seconds
    losses = play.device.ask("status")["losses"]
    want(losses["lost"] == 0, f"events were lost: {losses}")
    return f"{rss / 1024:.1f} MB resident, no event lost"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Step = Callable[[Play], str]
STEPS: dict[str, Step] = {
    "enrol, publish, verify, load": enrol,
    "a listed program under another name": refuse_program,
    "a listed address": refuse_address,
    "a listed domain": refuse_domain,
    "a connection that was open before": cut_connected,
    "a protected file is damaged": restore_file,
    "suspected, then confirmed": confirm,
    "suspected, then dismissed": dismiss,
    "the enterprise is down": outage,
    "the agent is killed": killed,
    "at rest": _idle,
}
