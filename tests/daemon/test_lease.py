"""Leases: kept on disk, ended by time, by hand and with their process."""

from __future__ import annotations

import os
import subprocess
import time

import msgspec
import pytest

from autotune.daemon.lease import Holder, Lease, Leases, boot_id
from autotune.daemon.loop import Loop
from autotune.errors import StateDirError, UsageError


@pytest.fixture
def loop():
    made = Loop(lambda error: pytest.fail(str(error)))
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "leases.json")


def leases_of(path: str, loop: Loop) -> Leases:
    return Leases(path, loop, loop.stop)


def test_a_lease_covers_its_device_and_one_on_all_covers_every_one(path, loop) -> None:
    leases = leases_of(path, loop)
    leases.take("cuda:0", user=0)
    assert [1, 0] == [len(leases.on("cuda:0")), len(leases.on("cpu"))]
    leases.take("all", user=0)
    assert [2, 1] == [len(leases.on("cuda:0")), len(leases.on("cpu"))]


def test_it_is_on_the_disk_before_it_is_granted(path, loop) -> None:
    taken = leases_of(path, loop).take("cpu", user=7, reason="serving", seconds=60.0)
    (kept,) = leases_of(path, loop)
    assert taken == kept
    left = kept.seconds_left()
    assert left is not None
    assert 0 < left <= 60


def test_it_ends_when_its_time_is_up(path, loop) -> None:
    leases = leases_of(path, loop)
    leases.take("cpu", user=0, seconds=0.02)
    loop.run()
    assert [] == list(leases)
    assert [] == list(leases_of(path, loop))


def test_it_ends_with_its_process(path, loop) -> None:
    holder = subprocess.Popen(["sleep", "600"])
    leases = leases_of(path, loop)
    leases.take("cpu", user=0, holder=holder.pid)
    holder.kill()
    loop.run()
    assert [] == list(leases)
    holder.wait()


def test_of_a_holder_that_died_meanwhile_it_ends_at_the_start(path, loop) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    base = {"device": "cpu", "user": 0, "reason": "", "since": 0.0, "boot": boot_id()}
    kept = [
        Lease(id="1", **base, holder=Holder(dead.pid, 5)),
        Lease(id="2", **base, holder=Holder(os.getpid(), 5)),
    ]
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(kept))
    leases = leases_of(path, loop)
    assert 2 == len(leases)
    while len(leases):
        loop.run()


def test_after_a_new_start_of_the_machine_the_calendar_s_time_holds(path, loop) -> None:
    lease = Lease(
        id="1",
        device="cpu",
        user=0,
        reason="",
        since=0.0,
        boot="another",
        until_boottime=1e12,
        until=time.time() - 1,
    )
    left = lease.seconds_left()
    assert left is not None
    assert left < 0


def test_a_damaged_file_is_kept_beside_and_told(path, loop) -> None:
    with open(path, "w") as file:
        file.write('[{"id": "1", "dev')
    leases = leases_of(path, loop)
    assert [] == list(leases)
    assert "was damaged" in leases.notice
    assert os.path.exists(f"{path}.damaged")


def test_a_holder_that_cannot_be_seen_is_refused(path, loop) -> None:
    with pytest.raises(UsageError, match="cannot be seen"):
        leases_of(path, loop).take("cpu", user=0, holder=4_000_000)


def test_one_that_cannot_be_kept_is_not_granted(tmp_path, loop) -> None:
    leases = leases_of(str(tmp_path / "gone" / "leases.json"), loop)
    with pytest.raises(StateDirError):
        leases.take("cpu", user=0)
    assert [] == list(leases)
