"""The compile pool: what of a configuration is known for a GPU that is not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import UsageError
from autotune.fingerprint import device_named
from autotune.space.problem import Problem
from autotune.store.records import CompiledKernel
from autotune.worker.feasibility import CRASHED, CompilePool, unmet
from autotune.worker.worker import Worker

OVERREACHING = str(Path(__file__).with_name("overreaching.py"))
PROBLEM = Problem("overreaching", {"n": 65536})
H200 = device_named("nvidia-h200").facts


def configured(what: str, block: int = 256) -> dict[str, object]:
    return {"implementation": "kernel", "what": what, "block": block}


@pytest.fixture(scope="module")
def told():
    """Feasibility of each configuration by its name, all asked for at once."""
    names = ["double", "crashes", "transpose", "misspelt", "needs_data", "torch"]
    with CompilePool(PROBLEM, H200, [OVERREACHING], processes=2) as pool:
        return dict(zip(names, pool.feasibilities([configured(name) for name in names]), strict=True))


def test_what_a_kernel_needs_is_known(told) -> None:
    double = told["double"]
    assert ("", "") == (double.infeasible, double.unknown)
    (kernel,) = double.kernels
    assert ("double", 128, 0, 0) == (kernel.name, kernel.threads, kernel.shared_bytes, kernel.local_bytes)
    assert 8 <= kernel.registers <= 64


def test_too_much_shared_memory_is_infeasible_and_says_how_much(told) -> None:
    (kernel,) = told["transpose"].kernels
    needs = f"transpose needs {kernel.shared_bytes:,} bytes of shared memory; the device has 232,448"
    assert needs == told["transpose"].infeasible


def test_what_does_not_compile_is_infeasible_and_says_why_in_one_line(told) -> None:
    assert told["misspelt"].infeasible.startswith("does not compile: ")
    assert "sqare" in told["misspelt"].infeasible
    assert "\n" not in told["misspelt"].infeasible


def test_a_crash_of_the_compiler_is_that_configurations_alone(told) -> None:
    assert CRASHED == told["crashes"].infeasible
    assert [name for name, each in told.items() if each.infeasible == CRASHED] == ["crashes"]


def test_what_needs_data_cannot_be_told(told) -> None:
    assert ("", ()) == (told["needs_data"].infeasible, told["needs_data"].kernels)
    assert told["needs_data"].unknown


def test_what_launches_nothing_of_ours_is_feasible(told) -> None:
    assert ("", "", ()) == (told["torch"].infeasible, told["torch"].unknown, told["torch"].kernels)


def test_a_limit_that_is_not_known_is_none() -> None:
    kernel = CompiledKernel("k", threads=1024, shared_bytes=1 << 20, registers=64, local_bytes=0)
    assert "" == unmet(kernel, {})
    assert "k needs 65,536 registers; the device has 32,768" == unmet(kernel, {"registers_per_sm": 32768})
    assert "" == unmet(kernel, {"registers_per_sm": 65536})
    assert unmet(kernel, {"threads_per_block": 512}).startswith("k needs 1,024 threads")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu", "not for a cpu device"), ("amd-mi300x", "not for a rocm device")],
)
def test_only_nvidia_gpus_can_be_compiled_for(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CompilePool(PROBLEM, device_named(device).facts)


def test_the_worker_tells_what_its_trials_would_need() -> None:
    """On a machine without the GPU: the same call that a study makes before it touches one."""
    problem = Problem("overreaching", {"n": 4096})
    with Worker(modules=[OVERREACHING], memory_bytes=8 << 30) as worker:
        worker.prepare(problem, seed=0)
        batch = [configured("double", 16), configured("transpose"), configured("torch")]
        found = worker.compile(batch, H200)
        assert [False, True, False] == [bool(each.infeasible) for each in found]
        assert [["double"], ["transpose"], []] == [[kernel.name for kernel in each.kernels] for each in found]
        worker.build("baseline", configured("torch"))
        assert worker.check("baseline", 0) == 0.0
