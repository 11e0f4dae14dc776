"""Requests: validated, rate-limited per user, counted, aged, and kept within bounds."""

from __future__ import annotations

import json
import os
import socket

import msgspec
import pytest

from autotune.config import RequestSettings
from autotune.daemon.loop import Loop
from autotune.daemon.request_book import DAY, Entry, RequestBook, key_of
from autotune.daemon.requests import Rates, RequestSocket, understood
from autotune.errors import AutotuneError

GOOD = {
    "v": 1,
    "workload": "linear",
    "problem": {"m": 16, "n": 64, "k": 32},
    "objective": "latency",
    "max_error": None,
    "device": None,
    "match": "nearest",
}


def test_a_look_up_s_request_is_understood_with_its_defaults() -> None:
    wish = understood(json.dumps(GOOD).encode())
    assert "m=16,n=64,k=32,dtype=bfloat16,weight_format=native" == wish.key
    assert ("linear", "nearest", None) == (wish.workload, wish.match, wish.device)


def test_a_workload_of_others_is_taken_as_it_is() -> None:
    wish = understood(json.dumps({**GOOD, "workload": "their_own"}).encode())
    assert ("", GOOD["problem"]) == (wish.key, wish.dimensions)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"more": 1},
        {"workload": "../../etc/passwd"},
        {"workload": "x" * 65},
        {"problem": {"m": 16, "n": 64}},
        {"problem": {"m": 0, "n": 64, "k": 32}},
        {"problem": {"m": 1.5, "n": 64, "k": 32}},
        {"problem": {"m": [1], "n": 64, "k": 32}},
        {"problem": {f"d{number}": 1 for number in range(33)}, "workload": "their_own"},
        {"problem": {"m": 10**30}, "workload": "their_own"},
        {"objective": "fame"},
        {"max_error": -1.0},
        {"device": "x" * 65},
        {"match": "exact"},
    ],
)
def test_anything_else_is_refused(change) -> None:
    with pytest.raises((msgspec.MsgspecError, AutotuneError)):
        understood(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", b"[" * 8000, b'{"v":1e999}', b"x" * 9000])
def test_garbage_is_refused(garbage) -> None:
    with pytest.raises((msgspec.MsgspecError, AutotuneError, UnicodeDecodeError, RecursionError)):
        understood(garbage)


def test_each_user_has_a_rate_of_its_own() -> None:
    now = [0.0]
    rates = Rates(RequestSettings(per_second=2.0, burst=3), lambda: now[0])
    assert [True, True, True, False] == [rates.take(1) for _ in range(4)]
    assert rates.take(2)
    now[0] = 0.5
    assert [True, False] == [rates.take(1), rates.take(1)]
    now[0] = 1e6
    assert [True, True, True, False] == [rates.take(1) for _ in range(4)]


def test_the_number_of_remembered_users_is_bounded() -> None:
    rates = Rates(RequestSettings(burst=1, per_second=1e-9), lambda: 0.0)
    for user in range(3000):
        assert rates.take(user)
    assert not rates.take(2999)


def test_the_socket_takes_what_is_good_and_counts_the_rest(tmp_path) -> None:
    counted: list[tuple[str, str]] = []
    wishes = []
    loop = Loop(lambda error: pytest.fail(str(error)))
    settings = RequestSettings(per_second=1e-6, burst=5)
    listening = RequestSocket(
        str(tmp_path / "r"),
        settings,
        loop,
        lambda wish: wishes.append(wish) is None,
        lambda *what: counted.append(what),
    )
    assert 0o666 == os.stat(tmp_path / "r").st_mode & 0o777
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for data in (GOOD, {"v": 1}, {**GOOD, "problem": {}}, GOOD, GOOD, GOOD):
            sender.sendto(json.dumps(data).encode(), str(tmp_path / "r"))
    loop.later(0.05, loop.stop)
    loop.run()
    assert ["accepted", "malformed", "refused", "accepted", "accepted", "rate_limited"] == [
        result for result, _ in counted
    ]
    assert ("accepted", "nearest") == counted[0]
    assert 3 == len(wishes)
    listening.close()
    assert not (tmp_path / "r").exists()
    loop.close()


def entry(m: int, **fields) -> Entry:
    return Entry("cpu", "linear", {"m": m}, f"m={m}", "latency", None, **fields)


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def book_of(tmp_path, clock, **settings) -> RequestBook:
    return RequestBook(str(tmp_path / "requests.json"), RequestSettings(**settings), clock)


def test_an_ask_counts_half_after_a_half_life(tmp_path, clock) -> None:
    book = book_of(tmp_path, clock, half_life_days=7.0)
    book.note(entry(1))
    clock.now += 7 * DAY
    book.note(entry(1))
    (found,) = book
    assert (2, 1.5) == (found.asked, found.weight)
    # A clock that was set back makes nothing heavier.
    assert 1.5 == found.aged(clock.now - 100 * DAY, 7.0)


def test_it_is_kept_across_restarts_and_what_is_forgotten_is_not(tmp_path, clock) -> None:
    book = book_of(tmp_path, clock, half_life_days=1.0)
    book.note(entry(1))
    clock.now += 8 * DAY
    book.note(entry(2))
    book.save()
    assert not book.changed
    assert ["m=2"] == [kept.key for kept in book_of(tmp_path, clock)]


def test_the_least_wanted_make_room_and_an_operator_s_do_not(tmp_path, clock) -> None:
    book = book_of(tmp_path, clock, most=3)
    book.note(entry(1, operator=True))
    for m in (2, 2, 3, 4, 5):
        book.note(entry(m))
    assert ["m=1", "m=2", "m=5"] == [kept.key for kept in book]


def test_what_was_settled_is_not_taken_again_for_a_day_unless_an_operator_asks(tmp_path, clock) -> None:
    book = book_of(tmp_path, clock)
    book.note(entry(1))
    book.settle(key_of(entry(1)))
    assert not book.note(entry(1))
    assert 0 == len(book)
    assert book.note(entry(1, operator=True))
    book.settle(key_of(entry(1)))
    clock.now += DAY
    assert book.note(entry(1))


def test_what_failed_is_tried_later_and_later(tmp_path, clock) -> None:
    book = book_of(tmp_path, clock)
    book.note(entry(1))
    waits = []
    for _ in range(12):
        book.fail(key_of(entry(1)), "crashed", 600.0)
        (found,) = book
        waits.append(found.retry_at - clock.now)
    assert [600.0, 1200.0, 2400.0] == waits[:3]
    assert DAY == waits[-1]


def test_a_clock_that_is_set_back_does_not_put_off_what_failed_for_longer_than_the_longest_wait(
    tmp_path, clock
) -> None:
    book = book_of(tmp_path, clock)
    book.note(entry(1))
    book.fail(key_of(entry(1)), "crashed", 600.0)
    (found,) = book
    assert [600.0, 0.0] == [found.waits(clock.now), found.waits(clock.now + 600.0)]
    assert 0.0 == found.waits(clock.now - 2 * DAY)


def test_a_full_disk_keeps_it_in_memory_until_there_is_room(tmp_path, clock) -> None:
    book = RequestBook(str(tmp_path / "gone" / "requests.json"), RequestSettings(), clock)
    book.note(entry(1))
    with pytest.raises(AutotuneError):
        book.save()
    assert book.changed
    (tmp_path / "gone").mkdir()
    book.save()
    assert not book.changed
