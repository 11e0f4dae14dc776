"""A trial of a server ends well or with a verdict, and leaves nothing behind, whatever the server does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from autotune.errors import TrialError
from autotune.measure.load.http_client import load_over_http
from autotune.server.bench import ServerBench
from autotune.server.process import port_is_free

if TYPE_CHECKING:
    from collections.abc import Callable

UNTUNED = {"implementation": "fake", "max_num_seqs": 1}


def tried(spec, objective: str = "latency", told: list[str] | None = None):
    """A trial of the untuned server: its measurement."""
    with ServerBench(spec, objective, tell=(told if told is not None else []).append) as bench:
        bench.prepare(spec.problem, 0)
        bench.build("baseline", UNTUNED)
        bench.check("baseline", 0)
        return bench.measure("baseline", budget_seconds=0.0)


@pytest.fixture
def servers_left(fake) -> Callable[[], list[int]]:
    """Processes that run this test's fake server."""

    def left() -> list[int]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if fake in words and "-c" not in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        return found

    return left


def test_a_load_counts_and_names_what_it_measured(spec, tmp_path, servers_left):
    """One sample of a start, its figures beside it; the server saw each request once, with its lengths."""
    log = tmp_path / "log"
    measured = tried(spec("--log", str(log)))
    load = measured.load
    assert (35, 35, 0, 5) == (load["requests"], load["answered"], load["failed"], load["warm_up"])
    assert load["tokens_counted"] == "usage"
    assert measured.samples_ns == (round(1e9 * load["e2e"]["p50"]),)
    assert load["peak_memory_bytes"] > 2**20
    seen = [line.split()[1:] for line in log.read_text().splitlines()]
    assert seen.count(["6", "3"]) == 40
    assert seen.count(["32", "4"]) == 4, "the check's two prompts, asked twice of the untuned server"
    assert servers_left() == []


@pytest.mark.parametrize(
    ("arguments", "how", "verdict", "reason"),
    [
        (("--misbehave", "never_ready"), {"ready": 0.5}, "hung", "did not answer with success within 0.5 s"),
        (
            ("--misbehave", "refuse"),
            {},
            "crashed",
            "exited with status 2; last output: fake_server.py: unrec",
        ),
        (
            ("--misbehave", "die", "--after", "20"),
            {},
            "crashed",
            "load: the server exited with status 3; last",
        ),
        (("--misbehave", "error", "--after", "20"), {}, "wrong", "requests failed, 2"),
        (("--misbehave", "rubbish"), {}, "wrong", "no event stream: <html>welcome</html>"),
        (("--misbehave", "bad_json"), {}, "wrong", "no completion: {nonsense"),
        (("--misbehave", "silent"), {}, "wrong", "no token came"),
        (("--misbehave", "cut"), {}, "wrong", "the stream ended before the answer did"),
        (("--misbehave", "stall", "--after", "6"), {}, "hung", "no answer within 2 s"),
    ],
)
def test_a_server_that_fails_ends_its_trial_with_a_verdict(
    spec, arguments, how, verdict, reason, servers_left
):
    """The reason says what it did, and none of its processes is left."""
    with pytest.raises(TrialError) as told:
        tried(spec(*arguments, **how))
    assert told.value.verdict == verdict
    assert reason in told.value.reason
    assert servers_left() == []


def test_a_server_that_ignores_sigterm_is_killed(spec, servers_left):
    """After its time, and a person is told."""
    told: list[str] = []
    with ServerBench(spec("--misbehave", "ignore_sigterm", stop=0.2), "latency", tell=told.append) as bench:
        bench.build("baseline", UNTUNED)
        bench.release("baseline")
    assert ["fake: did not end within 0.2 s of SIGTERM, and was killed"] == told
    assert servers_left() == []


def test_a_child_that_keeps_the_port_is_ended_with_its_server(spec, servers_left):
    """Even one in a session of its own, whose parent has ended, and which ignores SIGTERM."""
    told: list[str] = []
    with ServerBench(spec("--misbehave", "leak_port"), "latency", tell=told.append) as bench:
        bench.build("baseline", UNTUNED)
        port = bench.port
        assert len(servers_left()) == 2
        bench.release("baseline")
        assert port_is_free("127.0.0.1", port)
    assert [] == told
    assert servers_left() == []


def test_a_port_that_another_holds_is_told(spec):
    """Where the spec names it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        made = spec()
        taken = made.__class__(type(made.sections)(**{**as_fields(made.sections), "port": port}), made.path)
        with pytest.raises(TrialError, match=f"something else listens on port {port}"):
            tried(taken)


def as_fields(struct) -> dict:
    """The fields of a struct."""
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_answers_that_differ_are_an_error(spec):
    """The share of the text after the first difference; the untuned server differs in nothing from itself."""
    accent = """
[slo]
e2e_ms = 2000
[baseline]
accent = ""
[qualifiers]
accent = ["", "x"]
"""
    with ServerBench(spec(tables=accent), "latency") as bench:
        bench.build("baseline", {"implementation": "fake", "accent": ""})
        assert bench.check("baseline", 0) == 0.0
        bench.build("other", {"implementation": "fake", "accent": "x"})
        assert 0.5 < bench.check("other", 0) < 1.0


def test_no_time_is_left(spec, servers_left):
    """What is under way ends as preempted, and what comes later does not start."""
    with ServerBench(spec("--token-seconds", "0.2"), "latency") as bench:
        bench.build("baseline", UNTUNED)
        bench.deadline = time.monotonic() + 0.3
        with pytest.raises(TrialError, match="preempted: load: no time was left"):
            bench.measure("baseline", budget_seconds=0.0)
        with pytest.raises(TrialError, match="preempted: start: no time was left"):
            bench.build("other", UNTUNED)
    assert servers_left() == []


def test_a_server_ends_when_autotune_is_killed(spec, servers_left):
    """The keeper sees the pipe close."""
    path = spec().path
    program = (
        "import sys, time; from autotune.server.spec import load_spec; from autotune.server.bench import *\n"
        f"bench = ServerBench(load_spec({path!r}), 'latency')\n"
        "bench.build('a', {'implementation': 'fake', 'max_num_seqs': 1}); print('up', flush=True)\n"
        "time.sleep(60)"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert running.stdout.readline() == b"up\n"
    (server,) = (psutil.Process(pid) for pid in servers_left())
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    running.stdout.close()
    psutil.wait_procs([server], timeout=20)
    assert servers_left() == []


def test_the_largest_rate_stands_with_the_rates_that_were_tried(spec):
    """A sample is nanoseconds per request at that rate; a rate that must be reached is tried first."""
    made = spec("--token-seconds", "0.01", tables=SLOW, load="resolution = 0.5\nseconds = 4")
    with ServerBench(made, "throughput") as bench:
        bench.build("baseline", UNTUNED)
        measured = bench.measure("baseline", budget_seconds=0.0)
        rate = 1e9 / measured.samples_ns[0]
        points = measured.load["by_rate"]
        assert rate == pytest.approx(max(point["rate"] for point in points if point["kept"]))
        assert rate < 2 / 0.03, "one place, three tokens of 10 ms"
        assert any(not point["kept"] and point["why"] for point in points)
        bench.build("other", UNTUNED)
        slower = bench.measure("other", budget_seconds=0.0, clearly_slower_than_ns=1e9 / 100)
        assert slower.stopped == "clearly_slower"
        assert len(slower.load["by_rate"]) == 1


SLOW = """
[slo]
e2e_ms = 200
percentile = 80
[baseline]
max_num_seqs = 1
[parameters]
max_num_seqs = [1, 8]
"""


def test_a_rate_that_none_reaches_is_infeasible(spec):
    """With the reason of the lowest that was tried."""
    impossible = SLOW.replace("200", "1")
    with pytest.raises(TrialError, match=r"no rate down to .* meets the objectives: .* missed E2E 1 ms"):
        tried(spec(tables=impossible, load="seconds = 1"), "throughput")


def test_a_client_of_its_own_counts_the_same(spec):
    """The records of a load against a plain HTTP client's count of what the same server answers."""
    import http.client
    import json

    with ServerBench(spec(), "latency") as bench:
        bench.build("baseline", UNTUNED)
        endpoint = bench.spec.endpoint(bench.port)
        planned = bench.spec.arrivals(200.0, 0)[:10]
        records = load_over_http(endpoint, planned, seed=1, keep_text=True)
        for record in records:
            body = endpoint.request(6, 3, (1, record.number))
            connection = http.client.HTTPConnection("127.0.0.1", bench.port)
            connection.request("POST", "/v1/completions", json.dumps(body))
            events = [
                line[6:] for line in connection.getresponse().read().split(b"\n") if line[:6] == b"data: "
            ]
            told = [json.loads(event) for event in events if event != b"[DONE]"]
            connection.close()
            assert record.text == "".join(event["choices"][0]["text"] for event in told)
            assert record.output_tokens == told[-1]["usage"]["completion_tokens"] == 3
            assert record.prompt_tokens == 6
    assert len(records) == 10
