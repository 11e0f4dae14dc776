"""A plan spread over a real Ray cluster of several raylets on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

import autotune
from autotune.cli.sweep import seconds_each
from autotune.config import MeasureSettings
from autotune.errors import UsageError
from autotune.fingerprint import device_named
from autotune.fleet.collection import merged
from autotune.fleet.sweep import Cluster, Kind, resources
from autotune.fleet.sweep_task import Order, Result, carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KERNELS = str(ROOT / "tests" / "daemon" / "quick_kernels.py")
CPU = device_named("cpu")
ORDER = Order(
    autotune.__version__,
    CPU.digest,
    "quick",
    {"rows": 8, "width": 32},
    "latency",
    None,
    seconds=12.0,
    trials=None,
    seed=0,
    measure=MeasureSettings(screen_seconds=0.1),
    modules=(KERNELS,),
)


# Ray's own warnings are not ours to answer for.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_node_names_its_devices_by_kind_and_digest() -> None:
    assert {f"autotune-cpu-{CPU.digest}": 2} == json.loads(resources([CPU, CPU]))


def test_a_budget_for_everything_is_dealt_out_by_the_devices_that_there_are() -> None:
    kinds = [Kind("cuda", "a" * 16, 4, 1.0), Kind("cuda", "b" * 16, 8, 1.0)]
    assert 60.0 == seconds_each(kinds, 10, None, 60.0)
    assert 600.0 / 3 == seconds_each(kinds, 10, 600.0, 60.0)
    assert 15.0 == seconds_each(kinds, 1000, 60.0, 60.0)


@pytest.mark.parametrize("where", ["rays", "ray:host", "", "spark"])
def test_what_is_no_cluster_is_one_line(where: str) -> None:
    with pytest.raises(UsageError, match=r"expected ray, or ray://HOST:PORT"):
        Cluster(where)


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"version": "0.0.1"}, "install the same on every node"),
        ({"device": "0" * 16}, "device 0000000000000000 is not here"),
        ({"dimensions": {"rows": 8}}, "width"),
        ({"workload": "quik"}, "unknown workload 'quik'"),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why(change: dict[str, Any], failure: str) -> None:
    import msgspec

    encoded = carry_out(msgspec.msgpack.encode(replace(ORDER, **change)))
    assert failure in msgspec.msgpack.decode(encoded, type=Result).failure


def run(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "autotune", "tune", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


@pytest.fixture(scope="module")
def raylets() -> Iterator[Any]:
    """A head without devices, and three nodes that share this machine's CPU for what that is worth."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster as RealCluster

    cluster = RealCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [
        cluster.add_node(num_cpus=1, resources=json.loads(resources([CPU])), object_store_memory=80 * 2**20)
        for _ in range(3)
    ]
    yield cluster
    cluster.shutdown()


@pytest.fixture
def environment(raylets: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text("[measure]\nscreen_seconds = 0.1\n")
    return {
        **os.environ,
        "RAY_ADDRESS": raylets.address,
        "AUTOTUNE_STATE_DIR": str(tmp_path / "state"),
        "AUTOTUNE_CONFIG": str(tmp_path / "config.toml"),
    }


@pytest.fixture
def cluster(raylets: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_ADDRESS", raylets.address)
    with Cluster("ray") as connected:
        yield connected


def orders(kind: Kind, count: int, **changes: Any) -> list[tuple[Kind, Order]]:
    return [
        (kind, replace(ORDER, dimensions={"rows": 8 * 2**number, "width": 32}, **changes))
        for number in range(count)
    ]


@pytest.mark.slow
def test_one_command_tunes_on_the_cluster_and_keeps_candidates(environment) -> None:
    words = ["quick", "-p", "rows=8,width=32", "--module", KERNELS, "--on", "ray", "--budget", "15s"]
    done = run(environment, *words, "--json")
    out, err = done.communicate(timeout=240)
    assert 0 == done.returncode, err
    told = json.loads(out)
    assert {"pause_ms": 0} == {
        name: value
        for name, value in told["winners"][0]["choices"][0]["configuration"].items()
        if name == "pause_ms"
    }
    assert "kept as bundle 1" in told["kept"]


@pytest.mark.slow
def test_problems_are_dealt_to_every_node_and_all_come_back(cluster: Cluster) -> None:
    [kind] = cluster.kinds("cpu")
    assert (3, 1.0) == (kind.count, kind.cpus)
    busy: list[int] = []
    results = [result for _, result in cluster.carry_out(orders(kind, 4), busy.append)]
    assert ["", "", "", ""] == [result.failure for result in results]
    bundle = merged(results)
    assert bundle is not None
    assert 4 == len({winner.problem for winner in bundle.winners})


@pytest.mark.slow
def test_a_lost_node_costs_a_retry_and_no_problem(raylets: Any, cluster: Cluster) -> None:
    [kind] = cluster.kinds()
    lost: list[bool] = []

    def lose(_: int) -> None:
        if not lost and time.monotonic() - began > 6:
            lost.append(True)
            raylets.remove_node(raylets.nodes.pop(), allow_graceful=False)

    began = time.monotonic()
    results = [result for _, result in cluster.carry_out(orders(kind, 3), lose)]
    assert [True] == lost
    assert ["", "", ""] == [result.failure for result in results]


@pytest.mark.slow
def test_one_command_writes_the_folder_that_vllm_reads_though_a_raylet_dies(
    raylets: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    raylets.nodes.append(
        raylets.add_node(num_cpus=1, resources=json.loads(resources([CPU])), object_store_memory=80 * 2**20)
    )
    sizes = "experts=4,top_k=2,hidden=64,intermediate=64"
    words = ["fused_moe", "-p", f"tokens=4,{sizes}", "--on", "ray", "--budget", "40s"]
    folder = tmp_path / "configs"
    running = run(environment, *words, "--export", "vllm-moe", str(folder), "--json")
    deadline = time.monotonic() + 150
    busy: list[Any] = []
    while time.monotonic() < deadline and not busy and running.poll() is None:
        time.sleep(0.2)
        busy = [node for node in raylets.nodes if _raylet(node) in _raylets_at_work()]
    assert busy, running.communicate()
    raylets.nodes.remove(busy[0])
    raylets.remove_node(busy[0], allow_graceful=False)
    out, err = running.communicate(timeout=300)
    assert 0 == running.returncode, err
    told = json.loads(out)
    assert ([], 1) == (told["failures"], len(told["winners"]))
    [file] = folder.iterdir()
    assert [str(file)] == told["files"]
    assert file.name.startswith("E=4,N=64,device_name=")
    rows = json.loads(file.read_text())
    assert {"triton_version", "4"} == set(rows)
    assert {"BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M"} <= set(rows["4"])


@pytest.mark.slow
def test_a_task_that_fails_on_every_node_is_told_and_the_others_go_on(cluster: Cluster) -> None:
    [kind] = cluster.kinds()
    bad = replace(ORDER, modules=(KERNELS, "no_such_module_anywhere"))
    carried_out = cluster.carry_out([(kind, bad), *orders(kind, 1)])
    results = {order.modules: result for order, result in carried_out}
    assert "no_such_module_anywhere" in results[bad.modules].failure
    assert "" == results[ORDER.modules].failure


@pytest.mark.slow
def test_control_c_stops_every_node_and_keeps_what_was_decided(environment) -> None:
    words = ["dozing", "-p", "rows=8", "--module", KERNELS, "--on", "ray", "--budget", "200s"]
    running = run(environment, *words)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not workers():
        time.sleep(0.5)
    assert workers()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=90)
    assert 130 == running.returncode, err
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and workers():
        time.sleep(0.5)
    assert [] == workers()


def workers() -> list[int]:
    """Processes of ours that hold the kernels of this module in their command line or environment."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if any("autotune.worker" in word for word in words) and _below_ray(process):
            found.append(process.pid)
    return found


def _raylet(node: Any) -> int:
    """The process of a node of the cluster."""
    return int(node.all_processes["raylet"][0].process.pid)


def _raylets_at_work() -> set[int]:
    """The raylets below which a worker of ours runs."""
    import psutil

    found = set()
    for worker in workers():
        with suppress(psutil.Error):
            parents = psutil.Process(worker).parents()
            found |= {parent.pid for parent in parents if parent.name() == "raylet"}
    return found


def _below_ray(process: Any) -> bool:
    import psutil

    try:
        return any(str(parent.name()).startswith("ray") for parent in process.parents())
    except psutil.Error:
        return False
