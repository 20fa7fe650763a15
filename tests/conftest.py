"""Fixtures that several folders share."""

from __future__ import annotations

import os

import pytest

from tests.support import FOREIGN


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> None:
    """What the developer's shell says of stores and servers must not reach a test."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) and not name.startswith("SLIPWAY_E2E_"):
            del os.environ[name]
