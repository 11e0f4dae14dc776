"""A node as look-ups see it: a state folder with published snapshots, a CPU, a software stack, a workload."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from autotune import client, paths
from autotune.lookup import request, target, warning
from autotune.lookup.published import APPLICATION_ID, FORMAT
from autotune.space import declared
from autotune.space.problem import Dimension, Problem

SCHEMA = Path(paths.data_dir("db")) / "snapshot.sql"


class Node:
    """A state folder, and what is published in it."""

    cpu, other_cpu, gpu, other_gpu = "c0" * 8, "c1" * 8, "90" * 8, "91" * 8
    stack, old_stack = "51" * 8, "50" * 8
    cores = 4
    dimensions = (
        Dimension("m", nearest=True),
        Dimension("n"),
        Dimension("dtype", choices=("bfloat16", "float32"), default="bfloat16"),
    )
    baseline: ClassVar = {"implementation": "torch", "compute_dtype": "=dtype", "threads": "=device.cores"}

    def __init__(self, state: Path) -> None:
        self.state = state

    @property
    def best_db(self) -> Path:
        return self.state / "best.db"

    def choice(self, *, m: int = 16, n: int = 64, rank: int = 0, **values: object) -> dict[str, object]:
        """A row of `choice`; `configuration` is given as a dict, or as text to publish it as it stands."""
        by_name = {dimension.name: dimension for dimension in self.dimensions}
        problem = Problem.of("toy", by_name, {"m": m, "n": n})
        row: dict[str, object] = {
            "workload": "toy", "problem": problem.key, "objective": "latency", "device": self.cpu,
            "stack": self.stack,
            "rank": rank, "neighbourhood": problem.neighbourhood,
            "dimensions": json.dumps(problem.dimensions),
            "configuration": {"implementation": "fast", "compute_dtype": "bfloat16", "threads": 2},
            "latency_ns": 1000.0, "p99_ns": 1500.0, "error": 0.001, "memory_bytes": 4096,
            "baseline_ns": 3000.0, "baseline_error": 0.002, "speedup": 3.0, "speedup_low": 2.9,
            "speedup_high": 3.1, "is_baseline": 0, "limit_share": 0.5, "study": 7, "trial": 42,
            "decided_at": 1_700_000_000.0, "origin": None,
        }  # fmt: skip
        assert values.keys() <= row.keys()
        row |= values
        if "speedup" not in values and row["latency_ns"] is not None:
            row["speedup"] = row["baseline_ns"] / row["latency_ns"]
        return row

    def publish(
        self, *choices: dict[str, object], generation: int = 1, devices: tuple[tuple, ...] = ()
    ) -> Path:
        """Write a snapshot and rename it into place, as `best.db` and as its generation."""
        numbered = self.state / "generations" / f"best-{generation:08d}.db"
        numbered.parent.mkdir(parents=True, exist_ok=True)
        for path in (numbered, self.best_db):
            fresh = path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            write_snapshot(fresh, choices, generation, devices)
            fresh.rename(path)
        return self.best_db


def write_snapshot(
    path: Path, choices: tuple[dict[str, object], ...], generation: int, devices: tuple[tuple, ...] = ()
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}")
        connection.executescript(SCHEMA.read_text())
        connection.execute("INSERT INTO meta VALUES ('generation', ?)", (str(generation),))
        connection.executemany("INSERT INTO device VALUES (?, ?, ?, ?, ?, ?)", devices)
        for choice in choices:
            values = [json.dumps(value) if isinstance(value, dict) else value for value in choice.values()]
            connection.execute(
                f"INSERT INTO choice({', '.join(choice)}) VALUES ({', '.join('?' * len(choice))})", values
            )
        connection.commit()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An untuned node of four cores with the workload `toy(m, n, dtype)`."""
    for variable in [name for name in os.environ if name.startswith(("AUTOTUNE_", "CUDA_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("AUTOTUNE_REQUEST_SOCKET", str(tmp_path / "nobody.sock"))
    monkeypatch.setattr(target, "_cpu_digest", lambda: Node.cpu)
    monkeypatch.setattr(target, "_cpu_facts", lambda: {"cores": Node.cores, "family": "x86-avx512"})
    monkeypatch.setattr(target, "_stack_digest", lambda _: Node.stack)
    monkeypatch.setattr(target, "_NVIDIA_NODES", ())
    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path / "etc"))
    for registry in (declared._registered, declared._dimensions, declared._parsed):
        monkeypatch.setattr(declared, _name_of(registry), {})
    monkeypatch.setattr(warning, "_given", set())
    monkeypatch.setattr(request, "_sent", set())
    (tmp_path / "state").mkdir()
    declared.declare("toy", Node.dimensions, Node.baseline, qualifiers=["compute_dtype"])
    client.refresh()
    yield Node(tmp_path / "state")
    client.refresh()


def _name_of(registry: object) -> str:
    return next(name for name, value in vars(declared).items() if value is registry)
