"""What the tests of the daemon share."""

from __future__ import annotations

import pytest


@pytest.fixture
def folder(tmp_path_factory):
    """A folder with a short path: those of sockets have at most 107 characters."""
    return tmp_path_factory.mktemp("d")
