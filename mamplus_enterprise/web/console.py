# SPDX-License-Identifier: Apache-2.0
"""The console's pages: log in, see alerts and devices, answer.

Every change is a form with the session's CSRF token and is followed by a redirect, so
"back" and "reload" repeat nothing.
"""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from mamplus_enterprise.alerts.answer import Answer, answer
from mamplus_enterprise.alerts.listing import STATES
from mamplus_enterprise.api.context import Context, body_of, context_of, off_loop
from mamplus_enterprise.api.session import COOKIE, LIFETIME_S, check_csrf, csrf_of, new_session, same, session_of
from mamplus_enterprise.devices.registry import MAX_GENERATION
from mamplus_enterprise.errors import EnterpriseError, Malformed, Unknown
from mamplus_enterprise.web.view import Asked, device_page, environment, overview
from mamplus_host.errors import MamplusError

WHO = "administrator (console)"
_STATIC = Path(__file__).parent / "static"
_FILES = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
_templates = environment()
router = APIRouter(include_in_schema=False)
Number = Annotated[int, Query(ge=0, le=MAX_GENERATION)]


def _page(name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    text = _templates.get_template(name).render(**values)
    return HTMLResponse(text, status_code=status, headers={"Cache-Control": "no-store"})


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)


@router.get("/static/{name}")
def static(name: str) -> FileResponse:
    if name not in _FILES:
        raise Unknown(f"there is no {name[:80]!r}")
    return FileResponse(_STATIC / name, media_type=_FILES[name], headers={"Cache-Control": "no-cache"})


@router.get("/login")
def login_form(request: Request) -> Response:
    if session_of(request):
        return _to("/")
    return _page("login.html", home=context_of(request).home, failed=False)


@router.post("/login")
async def login(request: Request) -> Response:
    home = context_of(request).home
    form = await _form(request)
    if not same(form.get("token", "").strip(), home.admin_token):
        return _page("login.html", status=403, home=home, failed=True)
    answered = _to("/")
    answered.set_cookie(
        COOKIE, new_session(home.admin_token), max_age=LIFETIME_S, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answered


@router.post("/logout")
async def logout(request: Request) -> Response:
    session = session_of(request)
    if session:
        check_csrf(request, session, (await _form(request)).get("csrf", ""))
    answered = _to("/login")
    answered.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answered


@router.get("/")
def console(request: Request, state: str = "open", before: Number = 0, done: str = "") -> Response:
    session = session_of(request)
    if not session:
        return _to("/login")
    return _console(request, session, Asked(state if state in STATES else "open", before), done=done)


@router.get("/changes")
def changes(request: Request, state: str = "open", before: Number = 0) -> Response:
    """Say whether the page has something new, for its script."""
    if not session_of(request):
        return JSONResponse({"mark": ""}, status_code=401)
    asked = Asked(state if state in STATES else "open", before)
    return JSONResponse({"mark": _overview(context_of(request), asked)["mark"]}, headers={"Cache-Control": "no-store"})


@router.get("/devices/{device_id}")
def device(request: Request, device_id: str) -> Response:
    session = session_of(request)
    if not session:
        return _to("/login")
    context = context_of(request)
    with context.store.reading() as reading:
        shown = device_page(reading, context.news.current, device_id)
    return _page("device.html", home=context.home, csrf=csrf_of(context.home.admin_token, session), **shown)


@router.get("/devices/{device_id}/changes")
def device_changes(request: Request, device_id: str) -> Response:
    """As `/changes`, for the page of a device."""
    if not session_of(request):
        return JSONResponse({"mark": ""}, status_code=401)
    context = context_of(request)
    with context.store.reading() as reading:
        mark = device_page(reading, context.news.current, device_id)["mark"]
    return JSONResponse({"mark": mark}, headers={"Cache-Control": "no-store"})


@router.post("/alerts/{number}/{what}")
async def answer_form(request: Request, number: int, what: str) -> Response:
    session = session_of(request)
    if not session:
        return _to("/login")
    form = await _form(request)
    check_csrf(request, session, form.get("csrf", ""))
    if what not in ("confirm", "dismiss"):
        raise Unknown(f"an alert cannot be answered with {what[:40]!r}; want confirm or dismiss")
    context = context_of(request)
    given = Answer(alert=str(number), confirmed=what == "confirm", who=WHO, reason=form.get("reason", "").strip())
    try:
        done = await off_loop(answer, context.home, context.store, context.signers, given)
    except MamplusError as error:
        status = error.status if isinstance(error, EnterpriseError) else 422
        return await off_loop(_console, request, session, Asked(), problem=str(error), status=status)
    query = {"state": form.get("state", "open"), "done": f"{given.alert}.{done.generation}"}
    return _to(f"/?{urlencode(query)}")


def _console(
    request: Request, session: str, asked: Asked, *, done: str = "", problem: str = "", status: int = 200
) -> HTMLResponse:
    context = context_of(request)
    return _page(
        "console.html", status=status, home=context.home, csrf=csrf_of(context.home.admin_token, session),
        done=_done(done), problem=problem, states=STATES, **_overview(context, asked),
    )  # fmt: skip


def _overview(context: Context, asked: Asked) -> dict[str, Any]:
    with context.store.reading() as session:
        return overview(session, context.news.current, asked)


def _done(text: str) -> tuple[int, int] | None:
    """Return (alert, generation) of the redirect that followed an answer; None for anything else."""
    alert, _, generation = text.partition(".")
    return (int(alert), int(generation)) if (alert + generation).isdecimal() and alert and generation else None


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of an urlencoded form; of a field that is given twice, the first."""
    body = await body_of(request)
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise Malformed("the form cannot be read; want application/x-www-form-urlencoded in UTF-8") from None
    return {name: values[0] for name, values in fields.items()}
