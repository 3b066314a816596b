# SPDX-License-Identifier: Apache-2.0
"""Where every attack begins: a repository with a list in each layer, and a device that has them."""

from pathlib import Path

import pytest

from tests.journey.attacks import Device, published
from tests.journey.repository import Repository


@pytest.fixture
def repository() -> Repository:
    return published()


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Device:
    made = Device(tmp_path / "device", repository)
    made.load(repository)
    return made
