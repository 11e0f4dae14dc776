import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.fingerprint.stack import KNOBS, stack_digest, stack_facts

ALL_KNOBS = [name for names in KNOBS.values() for name in names]


@pytest.fixture(autouse=True)
def no_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL_KNOBS:
        monkeypatch.delenv(name, raising=False)


def interpreter_facts(code: str, **environment: str) -> dict[str, Any]:
    """The facts that a fresh interpreter tells after running `code`."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\n{code}\n"
            "import autotune.fingerprint.stack as s, json\n"
            "print(json.dumps([s.stack_facts(), s.stack_digest('cuda'), 'torch' in sys.modules]))",
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    facts, digest, torch_loaded = json.loads(told)
    return {**facts, "digest": digest, "torch_loaded": torch_loaded}


def test_the_facts_are_the_same_before_and_after_torch_is_imported() -> None:
    pytest.importorskip("torch")
    bare, loaded = interpreter_facts(""), interpreter_facts("import torch")
    assert (False, True) == (bare.pop("torch_loaded"), loaded.pop("torch_loaded"))
    assert bare == loaded


def test_the_versions_found_are_those_that_are_imported() -> None:
    torch, triton = pytest.importorskip("torch"), pytest.importorskip("triton")
    facts = stack_facts()
    assert (torch.__version__, triton.__version__) == (facts["torch"], facts["triton"])


def test_the_facts_pass_through_json_without_changing_the_digest() -> None:
    facts = stack_facts()
    assert stack_digest("cuda") == stack_digest("cuda", json.loads(json.dumps(facts)))


def install(folder: Path, *packages: str) -> None:
    for package in packages:
        (folder / f"{package}.dist-info").mkdir(parents=True)


def test_the_first_on_the_path_wins_as_it_does_for_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "a", "torch-2.13.0+cu130", "torchvision-0.28.0")
    install(tmp_path / "b", "torch-2.11.0+cpu", "triton-3.6.0", "triton_kernels-1.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("none", "a", "b")])
    facts = stack_facts()
    assert ("2.13.0+cu130", "3.6.0") == (facts["torch"], facts["triton"])


def test_a_source_tree_without_metadata_tells_its_version_and_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text("1 / 0\n__version__: str = '2.14.0a0+git12'\n")
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton/__init__.py").write_text('"""isort"""\n__version__ = "3.9.0"\n')
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    facts = stack_facts()
    assert ("2.14.0a0+git12", "3.9.0") == (facts["torch"], facts["triton"])


def test_what_is_not_installed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/nonexistent", str(tmp_path / "archive.zip")])
    facts = stack_facts(str(tmp_path))
    assert (None, None, None) == (facts["torch"], facts["triton"], facts["nvidia_driver"])
    assert 16 == len(stack_digest("cuda", facts))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sys/module/nvidia/version", "580.95.05\n"),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\nGCC 12.3\n",
        ),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Wed\n",
        ),
    ],
)
def test_the_driver_is_read_from_the_kernel_module(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert "580.95.05" == stack_facts(str(tmp_path))["nvidia_driver"]


@pytest.mark.parametrize("name", ALL_KNOBS)
def test_every_knob_changes_the_digest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stack_digest()
    monkeypatch.setenv(name, "1")
    assert [f"{name}=1"] == stack_facts()["knobs"]
    assert before != stack_digest()


@pytest.mark.parametrize(
    "name",
    [
        "TRITON_CACHE_DIR",
        "TRITON_PRINT_AUTOTUNING",
        "TORCHINDUCTOR_CACHE_DIR",
        "TORCH_LOGS",
        "OMP_NUM_THREADS",  # a kernel parameter
        "CUDA_MODULE_LOADING",  # torch sets it when it is first used
        "TRITON_PTXAS_PATH",  # likewise
        "HOSTNAME",
    ],
)
def test_paths_caches_logging_and_what_torch_sets_itself_do_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stack_digest()
    monkeypatch.setenv(name, "/somewhere/else")
    assert before == stack_digest()


def test_an_unset_and_an_empty_knob_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stack_digest()
    monkeypatch.setenv("TRITON_INTERPRET", "")
    assert before == stack_digest()


def test_a_preloaded_library_counts_by_its_name_and_not_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2 /opt/libgomp.so.1")
    assert ["LD_PRELOAD=libjemalloc.so.2:libgomp.so.1"] == stack_facts()["knobs"]


@pytest.mark.parametrize(
    "changed",
    [
        {"torch": "2.14.0+cpu"},
        {"triton": "4.0.0"},
        {"python": "3.12.1"},
        {"implementation": "pypy"},
        {"libc": "glibc 2.41"},
        {"kernel": "7.0"},
    ],
)
def test_a_change_of_software_changes_the_digest(changed: dict[str, str]) -> None:
    facts = stack_facts()
    assert stack_digest("cpu", facts) != stack_digest("cpu", {**facts, **changed})


def test_a_driver_matters_to_accelerators_alone() -> None:
    facts = {**stack_facts(), "nvidia_driver": "580.95.05"}
    other = {**facts, "nvidia_driver": "590.10.01"}
    assert stack_digest("cpu", facts) == stack_digest("cpu", other)
    assert stack_digest("cuda", facts) != stack_digest("cuda", other)


def test_a_bug_fix_release_of_the_interpreter_does_not_matter() -> None:
    facts = {**stack_facts(), "python": "3.12.1"}
    assert stack_digest("cpu", facts) == stack_digest("cpu", {**facts, "python": "3.12.9"})
