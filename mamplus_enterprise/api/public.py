# SPDX-License-Identifier: Apache-2.0
"""Requests without a device signature: hello, enrolment, the repository's files."""

import base64
import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from mamplus_enterprise.api.context import body_of, context_of, decode, off_loop
from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.roles import DELEGATED, LAYERS
from mamplus_enterprise.devices.enroll import Enrolment, enroll
from mamplus_enterprise.errors import Unknown

router = APIRouter()

# The only names that are looked up: nothing else of the disk can be asked for.
_ROLES = "|".join(("root", "targets", "snapshot", *DELEGATED))
_METADATA = re.compile(rf"metadata/(timestamp\.json|[1-9][0-9]{{0,9}}\.({_ROLES})\.json)")
_TARGET = re.compile(
    rf"targets/({'|'.join(LAYERS)})/[0-9a-f]{{64}}\.(list\.mble|[0-9]{{1,19}}-[0-9]{{1,19}}\.delta)"
    r"|targets/policy/[0-9a-f]{64}\.policy\.json"
)
_FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}  # the name changes with the content
_FRESH = {"Cache-Control": "no-cache"}


@router.get("/v1/hello")
async def hello(request: Request) -> dict[str, Any]:
    context = context_of(request)
    settings = context.home.settings
    generation = context.news.current.generation
    return {"enterprise_id": settings.enterprise_id, "name": settings.name, "generation": generation}


@router.post("/v1/enroll")
async def enrolment(request: Request) -> dict[str, Any]:
    context = context_of(request)
    device = await off_loop(enroll, context.store, decode(await body_of(request), Enrolment))
    return {
        "device_id": device.id,
        "enterprise_id": context.home.settings.enterprise_id,
        "generation": context.news.current.generation,
        "root": base64.b64encode(repository.newest_root(context.home)).decode(),
    }


@router.get("/repo/{name:path}")
async def repository_file(request: Request, name: str) -> FileResponse:
    path = context_of(request).home.metadata.parent / name
    if not (_METADATA.fullmatch(name) or _TARGET.fullmatch(name)) or not path.is_file():
        raise Unknown(f"the repository has no {name[:120]!r}")
    return FileResponse(path, headers=_FRESH if name == "metadata/timestamp.json" else _FOR_GOOD)
