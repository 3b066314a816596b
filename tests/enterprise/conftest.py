# SPDX-License-Identifier: Apache-2.0
"""An enterprise of one's own, ended after the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from tests.enterprise.company import Company


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    """A development enterprise that serves."""
    made = Company(tmp_path / "enterprise").found().serve()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def quiet(tmp_path: Path) -> Company:
    """A development enterprise without a server."""
    return Company(tmp_path / "enterprise").found()


@pytest.fixture
def store(quiet: Company) -> Iterator[Store]:
    made = Store(Home.open(quiet.dir))
    yield made
    made.close()
