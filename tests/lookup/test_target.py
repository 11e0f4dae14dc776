"""Which device a look-up is about."""

from __future__ import annotations

import json

import pytest

import autotune
from autotune.lookup import target


@pytest.fixture
def gpu_node(node, monkeypatch, tmp_path):
    """A node with eight accelerators of two kinds, tuned for each and for the CPU; indices 0-3 and 4-7."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(target, "_NVIDIA_NODES", (str(tmp_path / "nvidiactl"),))
    node.publish(
        *(
            node.choice(device=device, configuration={"on": device})
            for device in (node.cpu, node.gpu, node.other_gpu)
        ),
        devices=(
            (node.cpu, "cpu", "", "x86", "{}", 0),
            (node.gpu, "cuda", "", "hopper", json.dumps({"cores": 16}), 0),
            (node.other_gpu, "cuda", "", "ada", "{}", 4),
            ("92" * 8, "cuda", "", "ada", "{}", None),
        ),
    )
    return node


def device_of(**call):
    return autotune.get_best_config("toy", m=16, n=64, **call).get("on", "default")


def test_without_a_name_the_tuned_accelerator_is_meant(gpu_node):
    assert device_of() == gpu_node.gpu


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_a_process_that_sees_no_accelerator_means_the_cpu(gpu_node, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_of() == gpu_node.cpu


def test_a_container_without_the_device_nodes_means_the_cpu(gpu_node, monkeypatch):
    monkeypatch.setattr(target, "_NVIDIA_NODES", ("/dev/nothing",))
    assert device_of() == gpu_node.cpu


def test_an_accelerator_that_was_tuned_elsewhere_only_is_not_this_hosts(gpu_node, monkeypatch):
    gpu_node.publish(
        gpu_node.choice(configuration={"on": gpu_node.cpu}), devices=(("92" * 8, "cuda", "", "", "{}", None),)
    )
    assert device_of() == gpu_node.cpu


def test_devices_are_named_by_kind_index_or_digest(gpu_node):
    named = {name: device_of(device=name) for name in ("cpu", "cuda", "cuda:0", "cuda:3", "cuda:4", "cuda:7")}
    first, second = gpu_node.gpu, gpu_node.other_gpu
    assert named == {
        "cpu": gpu_node.cpu,
        "cuda": first,
        "cuda:0": first,
        "cuda:3": first,
        "cuda:4": second,
        "cuda:7": second,
    }
    assert device_of(device=gpu_node.other_gpu) == gpu_node.other_gpu
    assert device_of(device="ab" * 8) == "default"


def test_what_prints_like_a_device_is_one(gpu_node):
    class TorchDevice:
        def __str__(self) -> str:
            return "cuda:4"

    assert device_of(device=TorchDevice()) == gpu_node.other_gpu


@pytest.mark.parametrize(
    ("visible", "name", "index"),
    [("4,0", "cuda:0", 4), ("4,0", "cuda:1", 0), (" 5 ", "cuda", 5), ("GPU-8f3a", "cuda", 0)],
)
def test_cuda_visible_devices_renumbers(gpu_node, monkeypatch, visible, name, index):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_of(device=name) == (gpu_node.gpu if index < 4 else gpu_node.other_gpu)


def test_a_baseline_is_calculated_from_the_devices_own_facts(gpu_node):
    """The published facts of the accelerator, not those of the CPU."""
    assert autotune.get_best_config("toy", m=16, n=65)["threads"] == 16
    assert autotune.get_best_config("toy", m=16, n=65, device="cpu")["threads"] == 4


def test_a_named_accelerator_on_an_untuned_host_gets_the_baseline(node):
    node.publish(node.choice())
    best = autotune.get_best_config("toy", m=16, n=64, device="cuda:1")
    assert (best.match, best.device) == ("default", None)
    assert best == {"implementation": "torch", "compute_dtype": "bfloat16", "threads": 4}
