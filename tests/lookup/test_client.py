"""get_best_config() as its callers see it."""

from __future__ import annotations

import ast
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

import autotune
from autotune import client
from autotune.errors import ProblemError, UnknownNameError, UsageError

DEFAULT = {"implementation": "torch", "compute_dtype": "bfloat16", "threads": 4}
FAST = {"implementation": "fast", "compute_dtype": "bfloat16", "threads": 2}


def test_an_exact_answer_carries_its_provenance(node):
    node.publish(node.choice(m=16), generation=3)
    best = autotune.get_best_config("toy", m=16, n=64)
    assert best == FAST
    assert (best.match, best.workload, best.objective) == ("exact", "toy", "latency")
    assert best.problem == best.tuned_for
    assert str(best.problem) == "toy(m=16, n=64, dtype=bfloat16)"
    assert (best.latency_ns, best.p99_ns, best.error, best.memory_bytes) == (1000.0, 1500.0, 0.001, 4096)
    assert (best.speedup, best.speedup_interval, best.baseline_ns) == (3.0, (2.9, 3.1), 3000.0)
    assert (best.study, best.trial, best.decided_at) == (7, 42, 1_700_000_000.0)
    assert (best.generation, best.source) == (3, str(node.best_db))
    assert (best.is_baseline, best.limit_share) == (False, 0.5)


def test_values_come_back_with_the_types_they_were_published_with(node):
    configuration = {"a": 1, "b": 1.5, "c": True, "d": False, "e": None, "f": "1", "g": [1, 2], "h": 2**40}
    node.publish(node.choice(configuration=configuration))
    best = autotune.get_best_config("toy", m=16, n=64)
    assert dict(best) == configuration
    assert [type(value) for value in best.values()] == [type(value) for value in configuration.values()]


def test_an_answer_is_a_read_only_mapping(node):
    node.publish(node.choice())
    best = autotune.get_best_config("toy", m=16, n=64)
    assert isinstance(best, Mapping)
    assert {**best} == FAST == best
    assert list(best) == list(FAST)
    assert "threads" in best
    assert best.get("absent", 5) == 5
    with pytest.raises(TypeError):
        best["threads"] = 8
    with pytest.raises(AttributeError, match="cannot be changed"):
        best.match = "exact"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del best.match


def test_an_answer_can_be_pickled(node):
    node.publish(node.choice())
    best = autotune.get_best_config("toy", m=16, n=64)
    copy = pickle.loads(pickle.dumps(best))
    assert copy == best
    assert copy.explain() == best.explain()
    assert (copy.match, copy.problem, copy.speedup_interval) == (
        best.match,
        best.problem,
        best.speedup_interval,
    )


def test_an_answer_explains_itself(node):
    node.publish(node.choice(m=16), node.choice(m=32, is_baseline=1, trial=None))
    assert repr(autotune.get_best_config("toy", m=16, n=64)) == (
        "<BestConfig toy(m=16, n=64, dtype=bfloat16): "
        "implementation=fast compute_dtype=bfloat16 threads=2 (exact, 3.00x over the baseline)>"
    )
    told = autotune.get_best_config("toy", m=16, n=64).explain()
    for fact in (
        "1 us, p99 1.5 us; 3.00x over the baseline (2.90 to 3.10) of 3 us",
        "study 7, trial 42",
        "0.001",
    ):
        assert fact in told
    assert "this is the baseline" in autotune.get_best_config("toy", m=32, n=64).explain()
    assert "tuned for      toy(m=16," in autotune.get_best_config("toy", m=10, n=64).explain()
    assert "what the framework does untuned" in autotune.get_best_config("toy", m=16, n=65).explain()


def test_defaults_and_equal_values_name_the_same_problem(node):
    node.publish(node.choice(m=16))

    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    class TorchDtype:
        def __str__(self) -> str:
            return "torch.bfloat16"

    for dtype in ("bfloat16", Name("bfloat16"), TorchDtype(), "torch.bfloat16"):
        for m in (16, 16.0, "16"):
            assert autotune.get_best_config("toy", n=64, dtype=dtype, m=m).match == "exact"


def test_a_wrong_call_names_what_would_have_been_right(node):
    node.publish(node.choice())
    look_up = autotune.get_best_config
    with pytest.raises(UnknownNameError, match=r"unknown workload 'toyy'; did you mean toy\?"):
        look_up("toyy", m=16, n=64)
    with pytest.raises(UnknownNameError, match=r"unknown dimension of toy 'dtypee'; did you mean dtype\?"):
        look_up("toy", m=16, n=64, dtypee="float32")
    with pytest.raises(ProblemError, match="dimension 'n' is missing"):
        look_up("toy", m=16)
    with pytest.raises(ProblemError, match="did you mean bfloat16 or float32"):
        look_up("toy", m=16, n=64, dtype="bfloat")
    with pytest.raises(UnknownNameError, match=r"unknown objective 'latencyy'; did you mean latency\?"):
        look_up("toy", m=16, n=64, objective="latencyy")
    with pytest.raises(
        UnknownNameError, match=r"qualifier of toy 'computedtype'; did you mean compute_dtype\?"
    ):
        look_up("toy", m=16, n=64, qualifiers={"computedtype": "float32"})
    with pytest.raises(UnknownNameError, match=r"unknown device 'cuda1'; did you mean cuda"):
        look_up("toy", m=16, n=64, device="cuda1")


@pytest.mark.parametrize(
    "m",
    [0, -1, 2**31, pytest.param(10**5000, id="huge"), 1.5, None, "sixteen", [16], {}, object(), float("nan")],
)
@pytest.mark.parametrize("snapshot", [True, False])
def test_a_bad_value_raises_whatever_is_on_the_disk(node, m, snapshot):
    if snapshot:
        node.publish(node.choice())
        autotune.get_best_config("toy", m=16, n=64)
    with pytest.raises(ProblemError):
        autotune.get_best_config("toy", m=m, n=64)


@pytest.mark.parametrize(
    "options",
    [
        {"max_error": -0.1}, {"max_error": "0.1"}, {"max_error": float("nan")}, {"max_error": True},
        {"max_error": [1]}, {"qualifiers": ["compute_dtype"]}, {"qualifiers": 3}, {"generation": -1},
        {"generation": True}, {"generation": "one"}, {"generation": 1.0}, {"objective": None},
        {"objective": []}, {"device": ""}, {"device": 0}, {"device": "cuda:"}, {"device": "C0" * 8},
    ],
)  # fmt: skip
def test_a_bad_option_raises(node, options):
    node.publish(node.choice())
    for right in ({}, {"max_error": 1}, {"generation": 1}):
        autotune.get_best_config("toy", m=16, n=64, **right)
    with pytest.raises(UsageError):
        autotune.get_best_config("toy", m=16, n=64, **options)


@pytest.mark.parametrize("workload", [None, 3, ["toy"], "", "../toy", "toy\0", "a/b"])
def test_what_is_no_workload_raises(node, workload):
    with pytest.raises(UnknownNameError):
        autotune.get_best_config(workload, m=16)


def test_values_without_a_hash_are_looked_up_all_the_same(node):
    node.publish(node.choice(configuration={"implementation": "fast", "compute_dtype": [1, 2]}))
    for _ in range(2):
        best = autotune.get_best_config("toy", m=16, n=64, qualifiers={"compute_dtype": [1, 2]})
        assert best.match == "exact"


def test_the_table_of_answers_is_bounded(node, monkeypatch):
    node.publish(node.choice(m=1))
    monkeypatch.setattr(client, "MOST_ANSWERS", 10)
    for m in [*range(1, 40), 1]:
        autotune.get_best_config("toy", m=m, n=64)
    assert len(client._answers) == 10


def test_the_second_look_up_returns_the_same_object(node):
    node.publish(node.choice())
    assert autotune.get_best_config("toy", m=16, n=64) is autotune.get_best_config("toy", m=16, n=64)


def test_a_new_generation_is_noticed_without_being_told(node, monkeypatch):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    node.publish(node.choice())
    assert autotune.get_best_config("toy", m=16, n=64).generation == 1
    node.publish(node.choice(configuration=DEFAULT), generation=2)
    best = autotune.get_best_config("toy", m=16, n=64)
    assert (best.generation, best) == (2, DEFAULT)


def test_between_two_looks_at_the_disk_answers_stay(node, monkeypatch):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 3600.0)
    node.publish(node.choice())
    before = autotune.get_best_config("toy", m=16, n=64)
    node.publish(node.choice(), generation=2)
    assert autotune.get_best_config("toy", m=16, n=64) is before
    autotune.refresh()
    assert autotune.get_best_config("toy", m=16, n=64).generation == 2


def test_a_pinned_generation_stays_whatever_is_published_or_removed(node, monkeypatch):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    node.publish(node.choice(m=16), node.choice(m=32), generation=1)
    node.publish(node.choice(m=16, configuration=DEFAULT), generation=2)
    assert autotune.get_best_config("toy", m=16, n=64).generation == 2
    assert autotune.get_best_config("toy", m=16, n=64, generation=1) == FAST
    node.publish(node.choice(m=16, configuration=DEFAULT), generation=3)
    (node.state / "generations" / "best-00000001.db").unlink()
    assert autotune.get_best_config("toy", m=16, n=64).generation == 3
    assert autotune.get_best_config("toy", m=32, n=64, generation=1).match == "exact"


def test_the_environment_pins_a_generation_and_the_argument_goes_before_it(node, monkeypatch):
    node.publish(node.choice(), generation=1)
    node.publish(node.choice(), generation=2)
    monkeypatch.setenv("AUTOTUNE_GENERATION", "1")
    best = autotune.get_best_config("toy", m=16, n=64)
    assert (best.generation, best.source) == (1, str(node.state / "generations" / "best-00000001.db"))
    assert autotune.get_best_config("toy", m=16, n=64, generation=2).generation == 2


def test_many_pinned_generations_do_not_pile_up_open_files(node):
    for generation in range(1, 31):
        node.publish(node.choice(), generation=generation)
    before = len(os.listdir("/proc/self/fd"))
    for generation in range(1, 31):
        assert autotune.get_best_config("toy", m=16, n=64, generation=generation).generation == generation
    assert len(os.listdir("/proc/self/fd")) - before <= 10


def test_a_change_of_the_state_folder_is_noticed(node, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    node.publish(node.choice())
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"
    other = type(node)(tmp_path / "other # state? 100%")
    other.publish(other.choice(), generation=9)
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(other.state))
    best = autotune.get_best_config("toy", m=16, n=64)
    assert (best.generation, best.source) == (9, str(other.best_db))


def test_threads_get_right_answers_while_generations_change(node, monkeypatch):
    """Sixteen threads look up four sizes while thirty generations are published under them."""
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    sizes = (8, 16, 32, 64)

    def publish(generation: int) -> None:
        choices = [node.choice(m=m, configuration={"m": m}, study=generation) for m in sizes]
        node.publish(*choices, generation=generation)

    publish(1)
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                for m in sizes:
                    best = autotune.get_best_config("toy", m=m, n=64)
                    if best != {"m": m} or best.match != "exact" or best.study != best.generation:
                        wrong.append((m, best.explain()))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(16)]
    for thread in threads:
        thread.start()
    for generation in range(2, 32):
        publish(generation)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert autotune.get_best_config("toy", m=8, n=64).generation == 31


def test_children_of_a_fork_look_up_while_the_parents_threads_do(node, monkeypatch):
    """Twenty forks while four threads are inside SQLite: each child answers and sees new generations."""
    monkeypatch.setattr(client, "MOST_ANSWERS", 1)  # so that every look-up reads the snapshot
    node.publish(*(node.choice(m=m, configuration={"m": m}) for m in range(1, 33)))
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for m in range(1, 33):
                autotune.get_best_config("toy", m=m, n=64)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(2, 22):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                client.NOTICE_SECONDS = client._look_again_at = 0.0
                right = all(autotune.get_best_config("toy", m=m, n=64) == {"m": m} for m in range(1, 33))
                node.publish(node.choice(m=1), generation=generation)
                noticed = autotune.get_best_config("toy", m=1, n=64).generation == generation
                os._exit(0 if right and noticed else 1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            node.publish(*(node.choice(m=m, configuration={"m": m}) for m in range(1, 33)))
            autotune.refresh()
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_child_still_reads_a_pinned_generation(node):
    node.publish(node.choice(m=16), node.choice(m=32), generation=1)
    assert autotune.get_best_config("toy", m=16, n=64, generation=1).match == "exact"
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        answers = [autotune.get_best_config("toy", m=m, n=64, generation=1).match for m in (16, 32)]
        os._exit(0 if answers == ["exact", "exact"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


HEAVY = {
    "json",
    "re",
    "typing",
    "enum",
    "dataclasses",
    "tomllib",
    "socket",
    "ast",
    "inspect",
    "importlib.metadata",
}


def run_without_site(program: str) -> str:
    """What a program prints in an interpreter that no installed package has loaded modules into."""
    environment = {**os.environ, "PYTHONPATH": str(Path(autotune.__file__).parent.parent)}
    command = [sys.executable, "-S", "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_an_exact_look_up_loads_light_modules_of_the_standard_library_only(node):
    """With the real digests: nothing of site-packages, and none of the slow modules of the library."""
    device, stack = run_without_site(
        "from autotune.fingerprint import cpu, stack; print(cpu.cpu_digest(), stack.stack_digest('cpu'))"
    ).split()
    node.publish(node.choice(device=device, stack=stack))
    program = """if True:
        import sys
        bare = set(sys.modules)
        import autotune
        from autotune.space.declared import declare
        from autotune.space.problem import Dimension
        dimensions = Dimension("m", nearest=True), Dimension("n"), Dimension("dtype", choices=("bfloat16",))
        declare("toy", dimensions, {})
        assert autotune.get_best_config("toy", m=16, n=64, dtype="bfloat16").match == "exact"
        print(set(sys.modules) - bare)
    """
    loaded = ast.literal_eval(run_without_site(program))
    assert loaded & HEAVY == set()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"autotune"}


@pytest.mark.parametrize("name", autotune.__all__)
def test_every_public_name_is_where_the_package_says(name):
    assert getattr(autotune, name) is getattr(autotune, name)
    assert name in dir(autotune)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'get_best_confg'"):
        autotune.get_best_confg  # noqa: B018
