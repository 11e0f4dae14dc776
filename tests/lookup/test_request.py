"""What a look-up tells the daemon."""

from __future__ import annotations

import json
import socket
from contextlib import closing

import pytest

import autotune
from autotune.lookup import request, target


@pytest.fixture
def daemon(node, tmp_path, monkeypatch):
    """The daemon's end: a bound datagram socket."""
    path = str(tmp_path / "requests.sock")
    monkeypatch.setenv("AUTOTUNE_REQUEST_SOCKET", path)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as receiver:
        receiver.bind(path)
        yield receiver


def received(daemon):
    messages = []
    while True:
        try:
            messages.append(json.loads(daemon.recv(65536)))
        except BlockingIOError:
            return messages


def test_what_is_not_exact_is_requested_once(node, daemon):
    node.publish(node.choice(m=16))
    for _ in range(3):
        assert autotune.get_best_config("toy", m=32, n=64, max_error=0.5).match == "nearest"
        autotune.refresh()
    assert received(daemon) == [
        {
            "v": 1,
            "workload": "toy",
            "problem": {"m": 32, "n": 64, "dtype": "bfloat16"},
            "objective": "latency",
            "max_error": 0.5,
            "device": node.cpu,
            "match": "nearest",
        }
    ]


def test_what_is_exact_is_not_requested(node, daemon):
    node.publish(node.choice(m=16))
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"
    assert received(daemon) == []


def test_each_distinct_problem_is_requested(node, daemon):
    node.publish()
    for call in (
        {"m": 1},
        {"m": 2},
        {"m": 1, "max_error": 0.1},
        {"m": 1, "device": "cuda:0"},
        {"m": 1, "dtype": "bfloat16"},
    ):
        autotune.get_best_config("toy", **{"n": 64, **call})
    sent = [
        (message["problem"]["m"], message["max_error"], message["device"]) for message in received(daemon)
    ]
    assert sent == [(1, None, node.cpu), (2, None, node.cpu), (1, 0.1, node.cpu), (1, None, "cuda:0")]


def test_any_error_is_a_number_that_every_reader_understands(node, daemon):
    node.publish()
    autotune.get_best_config("toy", m=1, n=64, max_error=float("inf"))
    (message,) = received(daemon)
    assert message["max_error"] == pytest.approx(1.797e308, rel=1e-3)


def test_an_accelerator_that_was_never_tuned_is_asked_for_as_the_default_device(
    node, daemon, monkeypatch, tmp_path
):
    monkeypatch.setattr(target, "_NVIDIA_NODES", (str(tmp_path),))
    node.publish()
    autotune.get_best_config("toy", m=1, n=64)
    assert received(daemon)[0]["device"] is None


def test_requests_reach_the_daemon_without_a_snapshot_too(node, daemon):
    with pytest.warns(autotune.AutotuneWarning):
        autotune.get_best_config("toy", m=1, n=64)
    assert [message["match"] for message in received(daemon)] == ["default"]


def test_a_full_queue_that_nobody_reads_delays_nothing(node, daemon):
    node.publish()
    for m in range(1, 600):
        assert autotune.get_best_config("toy", m=m, n=64).match == "default"
    assert 0 < len(received(daemon)) < 599


def test_one_process_sends_a_bounded_number(node, daemon, monkeypatch):
    monkeypatch.setattr(request, "MOST_REQUESTS", 3)
    node.publish()
    for m in range(1, 10):
        autotune.get_best_config("toy", m=m, n=64)
    assert len(received(daemon)) == 3


@pytest.mark.parametrize("kind", ["nobody listens", "a stream", "a file", "a folder", "too long", "missing"])
def test_a_socket_that_is_not_right_is_ignored(node, tmp_path, monkeypatch, kind):
    path = tmp_path / ("s" * 120 if kind == "too long" else "odd.sock")
    monkeypatch.setenv("AUTOTUNE_REQUEST_SOCKET", str(path))
    node.publish()
    with closing(
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "a stream" else socket.SOCK_DGRAM)
    ) as odd:
        if kind == "a file" or kind == "too long":
            path.touch()
        elif kind == "a folder":
            path.mkdir()
        elif kind != "missing":
            odd.bind(str(path))
        if kind == "nobody listens":
            odd.close()
        assert autotune.get_best_config("toy", m=1, n=64).match == "default"
