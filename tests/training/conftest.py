"""Fixtures of the training's tests."""

from __future__ import annotations

import pytest

from tests.training import runs

runner = pytest.fixture(scope="module")(runs.runner)
