"""The conformance suite over `pynvml`: run by test_management.py, and by `make gpu` where there is a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotune.fingerprint.nvml import NvmlLibrary
from tests.fingerprint.management_conformance import *

MOOD = os.environ.get("FAKE_NVML")

pytestmark = pytest.mark.gpu  # unless a library that tests build stands in for the driver


@pytest.fixture
def library():
    return NvmlLibrary()


@pytest.fixture
def throttled():
    """The library that tests build can be told to be held down; a real one cannot."""
    if MOOD is None:
        yield None
        return
    Path(MOOD).write_text("throttled")
    yield NvmlLibrary()
    Path(MOOD).write_text("idle")
