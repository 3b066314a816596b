# SPDX-License-Identifier: Apache-2.0
"""The console's pages without a browser: sessions, forms, and text that wants to be markup."""

import re
from urllib.parse import urlencode

from tests.enterprise.company import Answer, Company

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Visitor:
    """What a browser does without scripts: keeps the cookie, fills in forms."""

    def __init__(self, company: Company) -> None:
        self.company, self.cookie = company, ""

    def get(self, path: str) -> Answer:
        return self.company.ask("GET", path, None, self._headers())

    def post(self, path: str, **fields: str) -> Answer:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.company.ask("POST", path, urlencode(fields).encode(), self._headers() | form)
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].split(";")[0]
        return answer

    def log_in(self) -> Answer:
        return self.post("/login", token=(self.company.dir / "admin.token").read_text())

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.get("/").body.decode())
        assert found is not None
        return found[1]

    def _headers(self) -> dict[str, str]:
        return {"Cookie": self.cookie} if self.cookie else {}


def test_only_the_token_opens_the_console(company: Company) -> None:
    visitor = Visitor(company)

    assert (visitor.get("/").status, visitor.get("/").headers["location"]) == (303, "/login")
    assert visitor.post("/login", token="guess").status == 403
    assert visitor.get("/login?token=" + (company.dir / "admin.token").read_text().strip()).status == 200
    assert (visitor.cookie, visitor.get("/changes").status) == ("", 401)
    opened = visitor.log_in()
    cookie = opened.headers["set-cookie"]
    assert (opened.status, visitor.get("/").status) == (303, 200)
    for attribute in ("HttpOnly", "SameSite=strict", "Secure"):
        assert attribute in cookie


def test_a_forged_or_altered_session_is_no_session(company: Company) -> None:
    visitor = Visitor(company)
    visitor.log_in()
    name, _, value = visitor.cookie.partition("=")

    for altered in (value[:-1] + ("0" if value[-1] != "0" else "1"), "9" + value, "..", "é"):
        visitor.cookie = f"{name}={altered}"
        assert visitor.get("/").status == 303


def test_a_form_without_the_pages_own_token_changes_nothing(company: Company) -> None:
    company.device().sent()
    visitor = Visitor(company)
    visitor.log_in()

    assert visitor.post("/alerts/1/confirm").status == 403
    assert visitor.post("/alerts/1/confirm", csrf="0" * 64).status == 403
    assert visitor.post("/v1/admin/alerts/1/confirm").status == 403
    assert company.ask("POST", "/alerts/1/confirm").status == 303  # to the login page
    assert [alert["state"] for alert in company.admin("GET", "/alerts").body] == ["open"]


def test_an_alert_is_confirmed_by_a_form_alone(company: Company) -> None:
    company.device().sent()
    visitor = Visitor(company)
    visitor.log_in()
    csrf = visitor.csrf()

    answer = visitor.post("/alerts/1/confirm", csrf=csrf, reason="known bad", state="open")
    page = visitor.get(answer.headers["location"]).body.decode()
    again = visitor.post("/alerts/1/confirm", csrf=csrf)

    assert (answer.status, answer.headers["location"]) == (303, "/?state=open&done=1.2")
    assert "generation 2 is on its way" in page
    assert "Nothing waits for an answer" in page
    assert (again.status, "was confirmed by administrator (console)" in again.body.decode()) == (409, True)


def test_text_from_a_device_is_text(company: Company) -> None:
    process = {"pid": 7, "ppid": 1, "uid": 0, "exe": HOSTILE, "cmdline": [HOSTILE, "-c"]}
    company.device(HOSTILE).sent(
        summary=HOSTILE, rule=HOSTILE, kind=HOSTILE,
        indicator={"kind": HOSTILE, "value": HOSTILE},
        evidence={"processes": [process], "sockets": [{HOSTILE: HOSTILE}], "file": {"path": HOSTILE}, HOSTILE: HOSTILE,
                  "lineage": [HOSTILE]},
        actions=[{"action": HOSTILE, "state": HOSTILE, "detail": HOSTILE}],
    )  # fmt: skip
    visitor = Visitor(company)
    visitor.log_in()

    answer = visitor.get(f"/?state={urlencode({'': HOSTILE})[1:]}&done={HOSTILE.replace(' ', '')}")
    page = answer.body.decode()

    assert answer.status == 200
    assert page.count("&lt;script&gt;alert(1)") >= 12
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 1  # ours, from /static


def test_evidence_of_any_shape_is_shown_and_never_breaks_the_page(company: Company) -> None:
    device = company.device()
    for evidence in ({"processes": "x", "sockets": 3, "file": []}, {"processes": [1, {}], "sockets": [[]]}, {"n": 2}):
        device.sent(evidence=evidence)
    device.sent(actions=[{}], severity=5, indicator=None, at=-1e300)
    visitor = Visitor(company)
    visitor.log_in()

    assert visitor.get("/").status == 200
    assert visitor.get("/?state=all&before=3").body.decode().count("<article") == 2


def test_every_page_forbids_what_it_does_not_need(company: Company) -> None:
    for path in ("/login", "/static/console.css", "/v1/hello", "/nothing"):
        policy = company.ask("GET", path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
