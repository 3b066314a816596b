# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser, as an administrator meets it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.enterprise.company import Company, FakeDevice
from tests.enterprise.test_orders import receipt_of

pytestmark = pytest.mark.browser
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    made = Company(tmp_path / "enterprise").found().serve()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def page(browser: Browser, company: Company) -> Iterator[Page]:
    """A page that is logged in. It must not complain: neither an exception nor a broken content policy."""
    context = browser.new_context(base_url=f"https://127.0.0.1:{company.port}", ignore_https_errors=True)
    complaints: list[str] = []
    made = context.new_page()
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    log_in(made, company)
    yield made
    context.close()
    assert complaints == []


def log_in(page: Page, company: Company) -> None:
    page.goto("/")
    page.get_by_label("Administrators' token").fill((company.dir / "admin.token").read_text().strip())
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Alerts")).to_be_visible()


def test_an_administrator_sees_an_alert_confirms_it_and_the_generation_grows(page: Page, company: Company) -> None:
    company.device("scanner 12").sent(summary="a new program speaks to the network")
    expect(page.locator("article")).to_have_count(1)  # the page found out by itself
    expect(page.locator("#generation")).to_have_text("1")
    expect(page).to_have_title("(1) Test Ltd")

    page.get_by_placeholder("Reason (optional)").fill("known dropper")
    page.get_by_role("button", name="Confirm: block everywhere").click()

    expect(page.get_by_role("status")).to_contain_text("generation 2 is on its way")
    expect(page.locator("#generation")).to_have_text("2")
    expect(page.locator("article")).to_have_count(0)
    (alert,) = company.admin("GET", "/alerts?state=confirmed").body
    assert (alert["answered_by"], alert["answer_reason"]) == ("administrator (console)", "known dropper")


def test_without_scripts_an_alert_is_dismissed_and_the_administrator_logs_out(
    browser: Browser, company: Company
) -> None:
    company.device().sent()
    context = browser.new_context(
        base_url=f"https://127.0.0.1:{company.port}", ignore_https_errors=True, java_script_enabled=False
    )
    page = context.new_page()
    log_in(page, company)

    page.get_by_role("button", name="Dismiss: allow").click()
    expect(page.get_by_role("status")).to_contain_text("generation 2")
    page.get_by_role("link", name="dismissed").click()
    expect(page.locator("article")).to_contain_text("by administrator (console)")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"https://127.0.0.1:{company.port}/login")
    page.goto("/")
    expect(page).to_have_url(f"https://127.0.0.1:{company.port}/login")
    context.close()


def test_a_refresh_keeps_what_is_open_and_what_is_being_written(page: Page, company: Company) -> None:
    device = company.device()
    first = device.sent(summary="the first")
    expect(page.locator("article")).to_have_count(1)
    page.get_by_text("Evidence").click()
    device.sent(summary="the second")
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("details[open]")).to_have_count(1)
    expect(page.locator("article", has_text=first).locator("details[open]")).to_have_count(1)

    reason = page.locator("article").first.get_by_placeholder("Reason (optional)")
    reason.fill("half a sent")
    with page.expect_request(lambda request: "/changes" in request.url, timeout=6000) as asked:
        device.sent(summary="the third")
        reason.fill("")
        reason.blur()
    assert asked.value
    expect(page.locator("article")).to_have_count(3)


def test_a_program_named_like_markup_runs_nothing(page: Page, company: Company) -> None:
    hostile = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    process = {"pid": 7, "ppid": 1, "uid": 0, "exe": hostile, "cmdline": [hostile]}
    company.device(hostile).sent(summary=hostile, evidence={"processes": [process], hostile: hostile})
    expect(page.locator("article h3")).to_have_text(hostile)
    page.reload()

    expect(page.locator("article h3")).to_have_text(hostile)
    expect(page).to_have_title("(1) Test Ltd")
    assert page.locator("article script, article img[src=x]").count() == 0


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_fits_its_window(page: Page, company: Company, width: int) -> None:
    populate(company)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/?state=all")
    for evidence in page.get_by_text("Evidence").all():
        evidence.click()

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("MAMPLUS_SCREENSHOTS"):
        _shoot(page, Path(folder), width)


CONTROLS = (
    ("programs", "exec: listed program", "degraded", "signal", "killed before its first instruction, under two names"),
    ("programs", "exec: library", "not possible", "", "a listed library was mapped executable"),
    ("network", "connect, send", "enforcing", "cgroup", "connect and sendto: EPERM, IPv4, IPv6 and v4-mapped"),
    ("network", "DNS", "enforcing", "cgroup", "a query for a sub-domain of a listed name: EPERM"),
    (
        "files",
        "guarded path",
        "not possible",
        "",
        "write, truncate, chmod, link, rename, unlink went through",
    ),
    ("running agent", "agent: links", "enforcing", "kernel", "9 links call their programs, on the agent's cgroup"),
)


def say_controls(device: FakeDevice, **states: str) -> None:
    """Report `CONTROLS`; `states`: DNS=... and the like, for those whose names are words."""
    controls = [
        {
            "group": group,
            "control": name,
            "state": states.get(name, state),
            "tier": tier,
            "reason": reason,
            "way_out": "boot with bpf among lsm=..." if state == "not possible" else "",
        }
        for group, name, state, tier, reason in CONTROLS
    ]
    examined = {"at": time.time(), "why": "boot", "kernel": "6.1.0-44-amd64", "agent": "0.1.0", "generation": 1,
                "controls": controls}  # fmt: skip
    report = {"generation": 1, "at": time.time(), "examined": examined}
    assert device.ask("POST", "/v1/report", report).status == 200


def test_an_administrator_sees_each_control_of_a_device_with_its_reason_and_what_changed(
    page: Page, company: Company
) -> None:
    company.device("old scanner")
    van = company.device("van-7")
    say_controls(van)
    row = page.locator("tr", has_text="van-7")
    expect(row.locator("td[data-label=Controls]")).to_have_text("not possible 2")  # the page found out by itself
    expect(page.locator("tr", has_text="old scanner").locator("td[data-label=Controls]")).to_have_text("not reported")

    row.get_by_role("link", name="van-7").click()

    expect(page.get_by_role("heading", name="van-7")).to_be_visible()
    expect(page.get_by_role("row", name="exec: library")).to_contain_text("a listed library was mapped executable")
    expect(page.get_by_role("row", name="exec: library")).to_contain_text("To do better: boot with bpf among lsm=...")
    colours = {
        state: page.locator("td .tag", has_text=state).first.evaluate("one => getComputedStyle(one).color")
        for state in ("enforcing", "degraded", "not possible")
    }
    assert len(set(colours.values())) == 3
    say_controls(van, DNS="degraded")
    expect(page.get_by_role("heading", name="What changed")).to_be_visible()
    expect(page.locator(".changes li")).to_contain_text("DNS enforcing → degraded")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_device_fits_its_window(page: Page, company: Company, width: int) -> None:
    van = company.device("van-7")
    say_controls(van)
    say_controls(van, DNS="not possible")
    company.json("lock", "van-7", "--reason", "left on a train")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"/devices/{van.id}")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("MAMPLUS_SCREENSHOTS"):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.screenshot(path=Path(folder) / f"device-{width}-{scheme}.png", full_page=True)


def test_a_device_that_reports_markup_runs_nothing(page: Page, company: Company) -> None:
    hostile = "<script>document.title='owned'</script>"
    van = company.device(hostile)
    examined = {"at": time.time(), "why": hostile[:32], "kernel": hostile, "agent": hostile,
                "controls": [{"control": hostile, "state": hostile[:32], "tier": hostile[:32], "group": hostile,
                              "reason": hostile}]}  # fmt: skip
    report = {"generation": 1, "at": time.time(), "examined": examined}
    assert van.ask("POST", "/v1/report", report).status == 200

    page.goto(f"/devices/{van.id}")

    expect(page.locator("th[scope=row]")).to_have_text(hostile)
    assert page.locator("main script").count() == 0


def answer_order(device: FakeDevice, **evidence: str) -> None:
    device.sent(kind="order", indicator=None, finding="confirmed", evidence=evidence)


def test_an_administrator_sees_what_became_of_each_order_on_the_page_and_on_that_of_its_device(
    page: Page, company: Company
) -> None:
    van, other = company.device("van-7"), company.device("dock")
    van.wait(1, 0)
    expect(page.locator("tr", has_text="van-7")).to_contain_text("current")
    expect(page.locator("tr", has_text="dock")).to_be_visible()
    expect(page.get_by_role("heading", name="Orders")).to_have_count(0)
    locked = company.json("lock", "van-7", "--reason", "left on a train")["id"]
    other_id = company.json("lock", "dock", "--container")["id"]
    row = page.locator(".orders tr", has_text=locked)
    expect(row).to_contain_text("left on a train")  # the page found out by itself
    expect(row.locator(".tag")).to_have_text("waiting")
    expect(row).to_contain_text("not fetched")

    van.wait(1, 0)
    expect(row).to_contain_text("handed out")
    answer_order(van, **receipt_of(van, locked))
    answer_order(other, order=other_id, state="failed", detail="no professional <b>container</b>")

    expect(row.locator(".tag")).to_have_text("done")
    expect(row).to_contain_text("locked 1 session")
    failed = page.locator(".orders tr", has_text=other_id)
    expect(failed.locator(".tag")).to_have_text("failed")
    expect(failed).to_contain_text("no professional <b>container</b>")
    row.get_by_role("link", name="van-7").click()
    expect(page.get_by_role("heading", name="van-7")).to_be_visible()
    expect(page.locator(".orders tbody tr")).to_have_count(1)
    expect(page.locator(".orders")).to_contain_text("receipt signed by the device")
    company.json("lock", "van-7")
    expect(page.locator(".orders tbody tr")).to_have_count(2)


def _shoot(page: Page, folder: Path, width: int) -> None:
    page.screenshot(path=folder / f"console-{width}-evidence.png", full_page=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.goto("/")
        page.screenshot(path=folder / f"console-{width}-{scheme}.png", full_page=True)


def populate(company: Company) -> None:
    """Make what a working day leaves: devices up to date and behind, alerts of every state."""
    scanner, van, dock = (company.device(name) for name in ("scanner-12", "van-7", "dock-terminal-north-2"))
    evidence = {
        "processes": [
            {"pid": 4211, "ppid": 4190, "start_ns": 1, "uid": 1000, "cgroup": "/professional/mail",
             "cmdline": ["/home/anna/Downloads/invoice.pdf", "--quiet"], "exe": "/home/anna/Downloads/invoice.pdf"},
            {"pid": 4190, "ppid": 988, "start_ns": 1, "uid": 1000, "cmdline": ["sh", "-c", "./invoice.pdf --quiet"],
             "exe": "/usr/bin/dash"},
            {"pid": 988, "ppid": 1, "start_ns": 1, "uid": 1000, "cmdline": ["thunderbird"],
             "exe": "/usr/lib/thunderbird/thunderbird"},
            {"pid": 1, "ppid": 0, "start_ns": 1, "uid": 0, "cmdline": ["/sbin/init"],
             "exe": "/usr/lib/systemd/systemd"},
        ],
        "lineage": [{"tgid": 4211, "ppid": 4190, "uid": 1000, "comm": "invoice.pdf", "path": "/tmp/invoice.pdf"},
                    {"tgid": 4190, "ppid": 988, "uid": 1000, "comm": "sh", "path": "/usr/bin/dash"}],
        "sockets": [{"pid": 988, "proto": "tcp", "local": "10.0.0.7:50122", "remote": "203.0.113.8:443",
                     "state": "established"}],
        "file": {"path": "/home/anna/Downloads/invoice.pdf", "size": 48120, "mode": "-rwxr-xr-x", "uid": 1000,
                 "sha256": "c0ffee" * 10 + "beef"},
    }  # fmt: skip
    actions = [{"action": "freeze", "state": "done", "detail": "cgroup /professional/mail/held-4211"}]
    answered = dock.sent(
        summary="resolver asked for a name that nobody uses", kind="dns", severity=3, actions=[],
        indicator={"kind": "domain", "value": "updates.totally-legitimate-cdn.example"},
    )  # fmt: skip
    company.admin("POST", f"/alerts/{answered}/confirm", {"reason": "seen in the advisory of this week"})
    wrong = van.sent(summary="new version of the label printer's driver", severity=2)
    company.admin("POST", f"/alerts/{wrong}/dismiss", {"reason": "ours, released on Monday"})
    scanner.wait(3, 0)
    van.wait(2, 0)
    lost, refused = (company.json("lock", "van-7", "--reason", "left on a train")["id"] for _ in range(2))
    company.json("wipe", "dock-terminal-north-2", "--yes", "--send", "--reason", "sold")
    answer_order(van, **receipt_of(van, lost))
    answer_order(van, order=refused, state="failed", detail="this device has no graphical session that could be locked")
    van.sent(summary="connection to 203.0.113.8 port 443 was refused: listed", finding="confirmed", kind="connect",
             severity=5, indicator={"kind": "ip", "value": "203.0.113.8"},
             actions=[{"action": "refused", "state": "done", "detail": ""}])  # fmt: skip
    scanner.sent(
        summary="a program that a network-facing process wrote 3 s ago was started", evidence=evidence, actions=actions,
        indicator={"kind": "sha256", "value": "c0ffee" * 10 + "beef"},
    )  # fmt: skip
