"""Whatever a configuration does costs one trial: it gets the right verdict, and the next one runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from autotune.errors import ConfigError, InternalError, TrialError, UsageError
from autotune.measure.comparison import Outcome, Rules
from autotune.space.problem import Problem
from autotune.worker.worker import Limits, Worker

RIGHT = {"implementation": "right"}

DURING_CHECK = {
    "raises": ("crashed", "RuntimeError: no kernel image is available"),
    "exits": ("crashed", "SystemExit: 0"),
    "exits_hard": ("crashed", "check: exited with status 0"),
    "segfaults": ("crashed", "check: killed by SIGSEGV"),
    "aborts": ("crashed", "check: killed by SIGABRT; last output: terminate called after throwing"),
    "kills_its_group": ("crashed", "check: killed by SIGKILL"),
    "hangs_with_lock": ("hung", "check: no end within 4 s"),
    "hangs_in_native_code": ("hung", "check: no end within 4 s"),
    "leaves_children_and_hangs": ("hung", "check: no end within 4 s"),
    "eats_private_memory": ("out_of_memory", "MemoryError"),
    "eats_shared_memory": ("out_of_memory", "GiB held, 0.50 GiB allowed"),
    "eats_memory_in_children": ("out_of_memory", "GiB held, 0.50 GiB allowed"),
    "asks_for_too_much": ("out_of_memory", "can't allocate memory"),
    "returns_nan": ("wrong", "100.00% of the output is NaN or infinite"),
    "leaves_output_unwritten": ("wrong", "garbage, as in memory that was never written"),
    "leaves_last_row_unwritten": ("wrong", "garbage, as in memory that was never written"),
    "returns_stale_result": ("wrong", "no nearer to the reference than zeros are"),
    "reuses_its_buffer": ("wrong", "two calls returned the same memory"),
    "returns_zeros": ("wrong", "no nearer to the reference than zeros are"),
    "returns_another_shape": ("wrong", "output of shape (1, 8, 64); expected (8, 64)"),
    "returns_integers": ("wrong", "output of type torch.int32"),
    "returns_nothing": ("wrong", "returned NoneType"),
}

DURING_BUILD = {
    "does_not_build": ("compile_error", "ValueError: tile of 48 is no power of two"),
    "lacks_a_compiler": ("compile_error", "native kernels need a C++ compiler"),
    "exits_while_building": ("crashed", "build: exited with status 3"),
    "raises_at_once": ("crashed", "RuntimeError: no kernel image is available"),
    "changes_its_input": ("wrong", "changed its inputs"),
    "changes_its_input_once": ("wrong", "changed its inputs"),
    "changes_its_weights": ("wrong", "changed its inputs"),
    "returns_its_input": ("wrong", "changed its inputs"),
}


def _children(worker: Worker) -> list[psutil.Process]:
    return psutil.Process(worker.process_id).children(recursive=True)


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _proof_of_children() -> Path:
    return Path(os.environ["PROOF"])


@pytest.mark.parametrize("implementation", DURING_CHECK)
def test_what_goes_wrong_in_a_call_gets_its_verdict_and_the_next_trial_runs(worker, implementation):
    verdict, reason = DURING_CHECK[implementation]
    worker.build("trial", {"implementation": implementation})
    with pytest.raises(TrialError) as caught:
        worker.check("trial", seed=5)
    assert (caught.value.verdict, caught.value.slot) == (verdict, "trial")
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason
    worker.build("next", RIGHT)
    assert worker.check("next", seed=5) < 1e-5


@pytest.mark.parametrize("implementation", DURING_BUILD)
def test_what_goes_wrong_in_a_build_gets_its_verdict_and_the_next_trial_runs(worker, implementation):
    verdict, reason = DURING_BUILD[implementation]
    with pytest.raises(TrialError) as caught:
        worker.build("trial", {"implementation": implementation})
    assert (caught.value.verdict, caught.value.slot) == (verdict, "trial")
    assert reason in caught.value.reason
    worker.release("trial")
    worker.build("next", RIGHT)
    assert worker.check("next", seed=0) < 1e-5


def test_megabytes_of_output_harm_nobody(worker):
    worker.build("trial", {"implementation": "prints_megabytes"})
    assert worker.check("trial", seed=0) < 1e-5


def test_a_slot_survives_the_crash_of_another(worker):
    worker.build("kept", {"implementation": "packed"})
    worker.build("trial", {"implementation": "segfaults"})
    with pytest.raises(TrialError, match="SIGSEGV"):
        worker.check("trial", seed=0)
    assert worker.measure("kept", budget_seconds=0.05).p50_ns > 0


def test_a_slot_that_is_built_already_is_not_built_again(worker):
    assert worker.build("kept", RIGHT) is worker.build("kept", RIGHT)
    assert worker.build("kept", {"implementation": "packed"}).memory_bytes >= 64 * 64 * 4


def test_an_unknown_slot_is_our_own_mistake(worker):
    with pytest.raises(InternalError, match="slot 'nowhere' is empty"):
        worker.check("nowhere", seed=0)


def test_a_latency_is_measured_cold_until_it_is_known(worker):
    worker.build("trial", {"implementation": "slowed", "seconds": 0.004})
    measurement = worker.measure("trial", budget_seconds=0.3, min_samples=5)
    assert measurement.p50_ns > 4e6
    assert (measurement.timer, measurement.cache) == ("monotonic", "cold")
    assert measurement.stopped in ("converged", "time_cap")
    assert worker.measure("trial", budget_seconds=0.1, cache="hot").cache == "hot"


def test_a_clearly_slower_configuration_costs_two_samples(worker):
    worker.build("trial", {"implementation": "slowed", "seconds": 0.01})
    measurement = worker.measure("trial", budget_seconds=60, clearly_slower_than_ns=1e6)
    assert measurement.stopped == "clearly_slower"
    assert len(measurement.samples_ns) == 2


def test_a_comparison_runs_in_the_worker(worker):
    worker.build("baseline", {"implementation": "slowed", "seconds": 0.02})
    worker.build("slow", {"implementation": "slowed", "seconds": 0.05})
    worker.build("fast", RIGHT)
    comparison = worker.compare(["baseline", "slow", "fast"], baseline="baseline", rules=Rules(round_cap=40))
    assert comparison.outcome("fast") is Outcome.FASTER
    assert comparison.outcome("slow") is not Outcome.FASTER
    assert comparison.winner == "fast"
    assert comparison.rounds_ns().shape[1] == 3


@pytest.mark.parametrize("implementation", ["segfaults_later", "raises_later"])
def test_a_contender_that_fails_in_a_comparison_is_named(worker, implementation):
    worker.build("baseline", RIGHT)
    worker.build("failing", {"implementation": implementation})
    worker.build("other", {"implementation": "packed"})
    with pytest.raises(TrialError) as caught:
        worker.compare(
            ["baseline", "failing", "other"], baseline="baseline", rules=Rules(60.0, confidence=1 - 1e-12)
        )
    assert (caught.value.verdict, caught.value.slot) == ("crashed", "failing")


def test_an_unknown_workload_is_the_callers_mistake_and_the_worker_lives(worker, problem):
    with pytest.raises(UsageError, match="unknown workload 'linaer'"):
        worker.prepare(Problem("linaer", {"m": 1}), seed=0)
    prepared = worker.prepare(problem, seed=0)
    assert (prepared.flops, prepared.dtype) == (2 * 8 * 64 * 64, "float32")


def test_preparing_another_problem_forgets_the_slots(worker, problem):
    worker.build("trial", RIGHT)
    worker.prepare(Problem("misbehaving", {"m": 3, "n": 32}), seed=1)
    with pytest.raises(InternalError, match="slot 'trial' is empty"):
        worker.check("trial", seed=0)
    worker.prepare(problem, seed=0)


def test_the_stack_is_that_of_the_workers_interpreter(worker):
    assert "torch" in str(worker.stack())


def test_the_worker_is_in_a_session_of_its_own_and_dumps_no_core(worker):
    worker.build("kept", RIGHT)
    pids = [worker.process_id, *(child.pid for child in _children(worker))]
    assert {os.getsid(pid) for pid in pids} == {worker.process_id}
    assert os.getsid(0) != worker.process_id
    limits = Path(f"/proc/{pids[1]}/limits").read_text()
    assert "Max core file size        0" in limits


def test_the_orphans_of_a_configuration_die_with_the_worker(worker):
    _proof_of_children().unlink(missing_ok=True)
    worker.build("trial", {"implementation": "leaves_children"})
    worker.check("trial", seed=0)
    family = _children(worker)
    assert len(family) >= 2
    assert any(os.getsid(process.pid) != worker.process_id for process in family)
    worker.kill()
    assert _alive(family) == []


def test_a_kill_from_another_thread_ends_a_call_as_preempted(worker):
    worker.build("trial", {"implementation": "slowed", "seconds": 1.0})
    family = _children(worker)
    killer = threading.Timer(0.3, worker.kill)
    killer.start()
    with pytest.raises(TrialError) as caught:
        worker.measure("trial", budget_seconds=60)
    killer.join()
    assert caught.value.verdict == "preempted"
    assert _alive(family) == []
    worker.build("next", RIGHT)


def test_an_interrupt_while_waiting_ends_the_process_and_the_next_call_works(worker):
    worker.build("trial", {"implementation": "slowed", "seconds": 1.0})
    family = _children(worker)
    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        worker.measure("trial", budget_seconds=60)
    interrupt.join()
    assert _alive(family) == []
    worker.build("next", RIGHT)


def test_a_stopped_warden_does_not_protect_the_worker(worker):
    worker.build("trial", RIGHT)
    family = [psutil.Process(worker.process_id), *_children(worker)]
    os.kill(worker.process_id, signal.SIGSTOP)
    worker.kill()
    deadline = time.monotonic() + 10
    while _alive(family) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _alive(family) == []


def test_an_interpreter_that_does_not_exist_is_a_configuration_error():
    with (
        Worker(python="/nowhere/python") as worker,
        pytest.raises(ConfigError, match="cannot run '/nowhere/python'"),
    ):
        worker.stack()


def test_an_interpreter_without_torch_is_a_configuration_error(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with (
        Worker(python=str(python)) as worker,
        pytest.raises(
            ConfigError, match=r"does not start: .*No module named 'torch'; expected an interpreter"
        ),
    ):
        worker.stack()


def test_a_module_that_cannot_be_imported_is_the_callers_mistake(tmp_path):
    module = tmp_path / "broken.py"
    module.write_text("import nothing_of_that_name\n")
    with Worker(modules=[str(module)]) as worker, pytest.raises(UsageError, match="nothing_of_that_name"):
        worker.stack()


def test_what_lies_beside_the_package_cannot_be_imported_in_the_worker():
    """The folder may be another environment's site-packages."""
    reason = "No module named 'benchmarks'"
    with Worker(modules=["benchmarks.measurement"]) as worker, pytest.raises(UsageError, match=reason):
        worker.stack()


def test_a_worker_that_does_not_start_in_time_is_a_configuration_error():
    limits = Limits(start=0.05)
    with Worker(limits=limits) as worker, pytest.raises(ConfigError, match=r"no end within 0\.05 s"):
        worker.stack()
