# SPDX-License-Identifier: Apache-2.0
"""Requests of administrators' programs."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request

from mamplus_enterprise.alerts.answer import Answer, answer
from mamplus_enterprise.alerts.listing import MAX_LISTED, listing
from mamplus_enterprise.api.context import Context, body_of, context_of, decode, off_loop
from mamplus_enterprise.api.session import require_admin
from mamplus_enterprise.devices.registry import MAX_GENERATION, all_devices, one_device
from mamplus_enterprise.devices.tokens import new_token

WHO = "administrator (API)"
router = APIRouter(prefix="/v1/admin", dependencies=[Depends(require_admin)])
Before = Annotated[int, Query(ge=0, le=MAX_GENERATION)]
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]


class Reason(msgspec.Struct, frozen=True):
    reason: str = ""


@router.get("/alerts")
def alerts(request: Request, state: str = "all", before: Before = 0, limit: Limit = MAX_LISTED) -> list[dict[str, Any]]:
    with context_of(request).store.reading() as session:
        return listing(session, state, before=before, limit=limit)


@router.post("/alerts/{name}/confirm")
async def confirm(request: Request, name: str) -> dict[str, Any]:
    return await _answer(request, name, confirmed=True)


@router.post("/alerts/{name}/dismiss")
async def dismiss(request: Request, name: str) -> dict[str, Any]:
    return await _answer(request, name, confirmed=False)


async def _answer(request: Request, name: str, *, confirmed: bool) -> dict[str, Any]:
    context = context_of(request)
    said = decode(await body_of(request) or b"{}", Reason)
    given = Answer(alert=name, confirmed=confirmed, who=WHO, reason=said.reason)
    done = await off_loop(answer, context.home, context.store, context.signers, given)
    return {
        "generation": done.generation, "entry_id": done.entry_id, "alerts": done.alerts,
        "layer": done.layer.name.lower(),
    }  # fmt: skip


@router.get("/devices")
def devices(request: Request) -> list[dict[str, Any]]:
    context = context_of(request)
    with context.store.reading() as session:
        return all_devices(session, current=context.news.current.generation)


@router.get("/devices/{name}")
def device(request: Request, name: str) -> dict[str, Any]:
    context = context_of(request)
    with context.store.reading() as session:
        return one_device(session, name, current=context.news.current.generation)


@router.post("/tokens")
async def tokens(request: Request) -> dict[str, str]:
    context: Context = context_of(request)
    return {"token": await off_loop(new_token, context.home, context.store, who=WHO)}
