"""What Prometheus reads, over real sockets and from real files."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import stat
import threading
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autotune.config import MetricsSettings
from autotune.daemon import exposition
from autotune.daemon.exposition import Health, Server, TextfileWriter
from autotune.daemon.fleet_messages import Told
from autotune.daemon.metrics import Metrics
from autotune.store.fleet import Summary, winner_entry
from tests.store.factories import winner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WELL = Health(live=True, ready=True, why="idle")


def samples(text: bytes) -> dict[str, float]:
    """Every sample, by its name with its labels in order."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


@pytest.fixture
def health() -> list[Health]:
    """The last entry is how the daemon is."""
    return [WELL]


@pytest.fixture
def server(health: list[Health]) -> Iterator[Server]:
    made = Server("127.0.0.1:0", lambda: b"x 1\n", lambda: health[-1])
    yield made
    made.close()


def test_each_thing_that_happens_is_counted() -> None:
    metrics = Metrics()
    for verdict in ("ok", "ok", "wrong"):
        metrics.trial("cpu", verdict)
    metrics.decision("cpu", "promoted")
    metrics.study("cpu", "decided", 12.5)
    metrics.study("cpu", "preempted", 0.5)
    metrics.request("accepted", "nearest")
    metrics.request("malformed", "")
    metrics.requests_waiting(3)
    metrics.leases(2)
    metrics.yielded("cpu", "lease", 0.04)
    found = samples(metrics.text())
    expected = {
        "autotune_trials_total{device=cpu,verdict=ok}": 2,
        "autotune_trials_total{device=cpu,verdict=wrong}": 1,
        "autotune_decisions_total{decision=promoted,device=cpu}": 1,
        "autotune_studies_total{device=cpu,ending=decided}": 1,
        "autotune_studies_total{device=cpu,ending=preempted}": 1,
        "autotune_device_tuning_seconds_total{device=cpu}": 13.0,
        "autotune_requests_total{match=nearest,result=accepted}": 1,
        "autotune_requests_total{match=,result=malformed}": 1,
        "autotune_requests_waiting": 3,
        "autotune_leases": 2,
        "autotune_yield_seconds_bucket{cause=lease,device=cpu,le=0.025}": 0,
        "autotune_yield_seconds_bucket{cause=lease,device=cpu,le=0.05}": 1,
        "autotune_yield_seconds_sum{cause=lease,device=cpu}": 0.04,
        "autotune_disk_full": 0,
        "autotune_errors_total": 0,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_device_is_in_one_state() -> None:
    metrics = Metrics()
    for state in ("idle", "tuning", "tuning", "paused"):
        metrics.device_state("cpu", state)
    metrics.device_state("cuda:0", "busy")
    states = {name: value for name, value in samples(metrics.text()).items() if "device_state" in name}
    assert states == {
        "autotune_device_state{device=cpu,state=idle}": 0,
        "autotune_device_state{device=cpu,state=tuning}": 0,
        "autotune_device_state{device=cpu,state=paused}": 1,
        "autotune_device_state{device=cuda:0,state=busy}": 1,
    }


def test_only_the_last_error_is_told_and_in_one_line() -> None:
    metrics = Metrics()
    metrics.error("the first")
    metrics.error("the\nsecond " + "x" * 1000)
    found = samples(metrics.text())
    (told,) = [name for name in found if name.startswith("autotune_last_error_info")]
    assert told.startswith("autotune_last_error_info{message=the second xxx")
    assert len(told) < 300
    assert found["autotune_errors_total"] == 2
    assert found["autotune_last_error_timestamp_seconds"] > 0


def test_a_clock_that_went_back_does_not_stop_the_counting() -> None:
    metrics = Metrics()
    metrics.study("cpu", "decided", -3.0)
    metrics.yielded("cpu", "lease", -1.0)
    found = samples(metrics.text())
    assert found["autotune_device_tuning_seconds_total{device=cpu}"] == 0
    assert found["autotune_yield_seconds_sum{cause=lease,device=cpu}"] == 0


def test_names_follow_the_convention() -> None:
    """https://prometheus.io/docs/practices/naming: base units, counters end in _total."""
    metrics = Metrics()
    metrics.error("x")
    for family in text_string_to_metric_families(metrics.text().decode()):
        assert family.name.startswith("autotune_")
        assert family.documentation
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert all(name.endswith("_total") for name in names)
        assert not any(name.endswith(("_ms", "_milliseconds", "_mb", "_created")) for name in names)


def test_metrics_are_served_with_those_of_the_process(health: list[Health]) -> None:
    metrics = Metrics()
    metrics.trial("cpu", "ok")
    metrics.start(MetricsSettings(address="127.0.0.1:0"), lambda: health[-1])
    try:
        (server,) = metrics._exposures
        assert isinstance(server, Server)
        status, body = get(server.port, "/metrics")
        found = samples(body.encode())
    finally:
        metrics.stop()
    assert status == 200
    assert found["autotune_trials_total{device=cpu,verdict=ok}"] == 1
    assert found["process_resident_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("health_now", "path", "status"),
    [
        (WELL, "/healthz", 200),
        (WELL, "/readyz", 200),
        (Health(live=True, ready=False, why="starting"), "/healthz", 200),
        (Health(live=True, ready=False, why="starting"), "/readyz", 503),
        (Health(live=False, ready=True, why="stuck"), "/healthz", 503),
        (Health(live=False, ready=True, why="stuck"), "/readyz", 503),
    ],
)
def test_health_is_told_by_the_status(
    health_now: Health, path: str, status: int, server: Server, health: list[Health]
) -> None:
    health.append(health_now)
    assert get(server.port, path) == (status, f"{health_now.why}\n")


def test_other_paths_and_methods_are_refused(server: Server) -> None:
    assert get(server.port, "/")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/metrics", b"x")
    assert connection.getresponse().status == 501
    connection.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /metr", b"\0\xff\r\n\r\n", b"GET /metrics HTTP/9\r\n\r\n", b"A" * 70_000]
)
def test_garbage_does_not_end_the_server(sent: bytes, server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
    assert get(server.port, "/metrics") == (200, "x 1\n")


def test_a_client_that_says_nothing_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "LONGEST_REQUEST_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as silent:
        assert silent.recv(1) == b""
        assert get(server.port, "/metrics") == (200, "x 1\n")


def test_a_failure_behind_it_does_not_end_the_server(health: list[Health]) -> None:
    texts = [b"x 2\n"]
    server = Server("127.0.0.1:0", lambda: texts[0], lambda: health[-1])
    texts.clear()
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        get(server.port, "/metrics")
    texts.append(b"x 3\n")
    assert get(server.port, "/metrics") == (200, "x 3\n")
    server.close()


def test_closing_ends_the_thread_while_a_client_is_connected(health: list[Health]) -> None:
    before = set(threading.enumerate())
    server = Server("127.0.0.1:0", lambda: b"", lambda: health[-1])
    with socket.create_connection(("127.0.0.1", server.port)):
        server.close()
    assert server._thread not in threading.enumerate()
    with pytest.raises(ConnectionError):
        get(server.port, "/metrics")
    assert [thread for thread in set(threading.enumerate()) - before if not thread.daemon] == []


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="needs IPv6")
def test_the_other_loopback_works_too(health: list[Health]) -> None:
    try:
        server = Server("[::1]:0", lambda: b"x 1\n", lambda: health[-1])
    except OSError as error:
        pytest.skip(f"needs ::1: {error}")
    assert get(server.port, "/metrics", host="::1") == (200, "x 1\n")
    server.close()


def test_a_port_that_is_taken_is_logged_and_nothing_else(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    with caplog.at_level(logging.ERROR):
        metrics.start(MetricsSettings(address=f"127.0.0.1:{server.port}"), lambda: WELL)
    metrics.stop()
    assert "Address already in use; choose another port" in caplog.text


def test_starting_again_takes_the_new_settings(tmp_path: Path) -> None:
    metrics = Metrics()
    first, second = tmp_path / "first.prom", tmp_path / "second.prom"
    for path in (first, second):
        metrics.start(MetricsSettings(address="", textfile=str(path)), lambda: WELL)
        _wait_for(path)
    assert not first.exists()
    metrics.stop()
    assert list(tmp_path.iterdir()) == []


def test_the_text_file_is_whole_readable_by_others_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "autotune.prom"
    umask = os.umask(0o077)
    try:
        writer = TextfileWriter(str(path), 0.001, lambda: b"x 1\n" * 10_000)
        _wait_for(path)
        seen = {path.read_bytes() for _ in range(200)}
    finally:
        os.umask(umask)
    assert seen == {b"x 1\n" * 10_000}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert {name.suffix for name in tmp_path.iterdir()} <= {".prom", ".tmp"}
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_logged_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "later"
    tries = threading.Semaphore(0)

    def text() -> bytes:
        tries.release()
        return b"x 1\n"

    with caplog.at_level(logging.WARNING):
        writer = TextfileWriter(str(folder / "a.prom"), 0.001, text)
        for _ in range(5):
            tries.acquire()
        folder.mkdir()
        _wait_for(folder / "a.prom")
        writer.close()
    assert len(caplog.records) == 1
    assert "a.prom cannot be written: No such file or directory" in caplog.text


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.001)


def test_a_node_without_a_fleet_has_none_to_lose() -> None:
    metrics = Metrics()
    assert b"autotune_fleet" not in metrics.text()
    metrics.fleet.expose(True)
    assert 0 == samples(metrics.text())["autotune_fleet_connected"]
    metrics.fleet.expose(False)
    assert b"autotune_fleet" not in metrics.text()


def test_what_is_exchanged_with_the_fleet_is_counted() -> None:
    metrics = Metrics()
    metrics.fleet.expose(True)
    ours, theirs = (winner_entry(node, winner(m)) for m, node in ((1, "ours"), (2, "theirs")))
    metrics.fleet.sent([ours.kind, "refutation"])
    metrics.fleet.received([ours, theirs], "ours")
    metrics.fleet.stands(Summary(waiting=3, known=9, unverified=2))
    metrics.fleet.exchanged(Told(rejected=4, slowdown=1.25), at=1000.0)
    metrics.fleet.exchanged(Told("gone"), at=2000.0)
    found = {
        name.removeprefix("autotune_fleet_"): value
        for name, value in samples(metrics.text()).items()
        if name.startswith("autotune_fleet_") and value
    }
    assert found == {
        "last_exchange_timestamp_seconds": 1000.0,
        "exchanges_total{result=ok}": 1.0,
        "exchanges_total{result=failed}": 1.0,
        "outbox_entries": 3.0,
        "unverified_winners": 2.0,
        "entries_total{direction=sent,kind=winner}": 1.0,
        "entries_total{direction=sent,kind=refutation}": 1.0,
        "entries_total{direction=received,kind=winner}": 1.0,
        "rejected_entries_total": 4.0,
        "slowdown_ratio": 1.25,
    }
