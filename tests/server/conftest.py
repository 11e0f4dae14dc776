"""Specs of the fake server."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.server.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.server.spec import ServerSpec


@pytest.fixture
def fake(tmp_path) -> str:
    """The fake server's program, in a copy by which its processes are known from other tests' ones."""
    return shutil.copy(Path(__file__).with_name("fake_server.py"), tmp_path)


@pytest.fixture
def written(tmp_path, fake) -> Callable[..., str]:
    """Writes a spec of the fake server, with more arguments and other tables; returns its path."""

    def write(*arguments: str, tables: str = "", load: str = "", requests=40, ready=20.0, stop=5.0) -> str:
        path = tmp_path / "fake.toml"
        words = ", ".join(f'"{word}"' for word in (sys.executable, fake, "--port", "{port}", *arguments))
        path.write_text(
            f"""
name = "fake"
command = [{words}]
[ready]
seconds = {ready}
[stop]
seconds = {stop}
[request]
seconds = 2
[load]
rate = 100
requests = {requests}
warm_up = 5
prompt_tokens = [6, 6]
output_tokens = [3, 3]
{load}
[check]
prompts = 2
tokens = 4
{tables or TABLES}
"""
        )
        return str(path)

    return write


TABLES = """
[slo]
e2e_ms = 2000
percentile = 80
[baseline]
max_num_seqs = 1
[parameters]
max_num_seqs = [1, 2, 8]
"""


@pytest.fixture
def spec(written) -> Callable[..., ServerSpec]:
    """Reads what `written` wrote."""
    return lambda *arguments, **how: load_spec(written(*arguments, **how))
