# SPDX-License-Identifier: Apache-2.0
"""Requests that a device signs: wait, alerts, report."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from mamplus_enterprise.alerts import intake
from mamplus_enterprise.api.context import MAX_BODY_BYTES, body_of, context_of, decode, off_loop
from mamplus_enterprise.devices import orders
from mamplus_enterprise.devices.registry import MAX_GENERATION, Report, heard, reported
from mamplus_enterprise.devices.signature import SignedRequest, authenticated
from mamplus_enterprise.errors import Malformed, TooLarge
from mamplus_enterprise.storage.schema import Device

MAX_POLL_S = 50
router = APIRouter()
Generation = Annotated[int, Query(ge=0, le=MAX_GENERATION)]
PollSeconds = Annotated[int, Query(ge=0, le=MAX_GENERATION)]


async def _signed(request: Request, max_bytes: int = MAX_BODY_BYTES) -> tuple[Device, bytes]:
    """Return the device that sent `request`, and its body."""
    body = await body_of(request, max_bytes)
    path = bytes(request.scope["raw_path"]).decode("latin-1")
    query = bytes(request.scope["query_string"]).decode("latin-1")
    headers = (request.headers.get(f"mamplus-{name}", "") for name in ("device", "time", "signature"))
    signed = SignedRequest(request.method, f"{path}?{query}" if query else path, body, *headers)
    return await off_loop(authenticated, context_of(request).store, signed), body


@router.get("/v1/wait")
async def wait(
    request: Request, generation: Generation, poll_s: PollSeconds = MAX_POLL_S, known: Generation = 0
) -> dict[str, Any]:
    """`Request_Update_BLE`: say when there is a newer generation, or orders for the device."""
    context = context_of(request)
    device, _ = await _signed(request)
    await off_loop(heard, context.store, device, generation)
    with context.news.listening(device.id) as waiter:  # then look: what is ordered between is seen by one of the two
        waiting = await off_loop(orders.due, context.store, device)
        wait_s = 0 if waiting else min(poll_s, MAX_POLL_S)
        newest = await context.news.newer_than(max(generation, known), wait_s, waiter)
    waiting = waiting or await off_loop(orders.due, context.store, device)
    return {"generation": newest, "orders": waiting} if waiting else {"generation": newest}


@router.post("/v1/alerts")
async def alerts(request: Request) -> JSONResponse:
    """`Send_alert`: acknowledge what is stored for good."""
    device, body = await _signed(request, intake.MAX_BODY_BYTES)
    batch = decode(body, intake.Batch)
    if len(batch.alerts) > intake.MAX_ALERTS:
        raise TooLarge(f"the request has {len(batch.alerts)} alerts, want at most {intake.MAX_ALERTS}")
    taken = await off_loop(intake.take, context_of(request).store, device, batch.alerts)
    answer: dict[str, Any] = {"acknowledged": taken.acknowledged}
    if taken.refusal:
        return JSONResponse(answer | {"detail": taken.refusal, "seq": taken.refused_seq}, status_code=422)
    return JSONResponse(answer)


@router.post("/v1/report")
async def report(request: Request) -> dict[str, Any]:
    device, body = await _signed(request)
    said = decode(body, Report)
    if not 0 <= said.generation <= MAX_GENERATION:
        raise Malformed(f"generation is {said.generation}, want 0 to {MAX_GENERATION}")
    await off_loop(reported, context_of(request).store, device, said)
    return {}
