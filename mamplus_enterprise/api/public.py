# SPDX-License-Identifier: Apache-2.0
"""Requests without a device signature: hello, enrolment, the repository's files."""

import base64
import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from mamplus_enterprise.api.context import body_of, context_of, decode, off_loop
from mamplus_enterprise.ble import repository
from mamplus_enterprise.devices.enroll import Enrolment, enroll
from mamplus_enterprise.errors import Unknown

router = APIRouter()

# The only names that are looked up: nothing else of the disk can be asked for.
_METADATA = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.(root|targets|snapshot)\.json")
_TARGET = re.compile(r"[0-9a-f]{64}\.ble\.mble")
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
        "root": base64.b64encode(repository.first_root(context.home)).decode(),
    }


@router.get("/repo/{folder}/{name}")
async def repository_file(request: Request, folder: str, name: str) -> FileResponse:
    home = context_of(request).home
    shapes = {"metadata": (_METADATA, home.metadata), "targets": (_TARGET, home.targets)}
    shape, directory = shapes.get(folder, (None, home.dir))
    if shape is None or not shape.fullmatch(name) or not (directory / name).is_file():
        raise Unknown(f"the repository has no {folder[:40]!r}/{name[:80]!r}")
    return FileResponse(directory / name, headers=_FRESH if name == "timestamp.json" else _FOR_GOOD)
