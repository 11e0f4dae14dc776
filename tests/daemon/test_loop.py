"""The loop: timers in order, posts from other threads, errors that end nothing."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from autotune.daemon.loop import Loop


@pytest.fixture
def errors():
    return []


@pytest.fixture
def loop(errors):
    made = Loop(errors.append)
    yield made
    made.close()


def test_timers_call_in_order_and_a_cancelled_one_does_not(loop) -> None:
    called = []
    loop.later(0.02, lambda: called.append("second"))
    loop.later(0.01, lambda: called.append("first"))
    loop.later(0.0, lambda: called.append("never")).cancel()
    loop.later(0.03, loop.stop)
    loop.run()
    assert ["first", "second"] == called


def test_another_thread_wakes_it_up(loop) -> None:
    called = []
    threading.Thread(target=lambda: loop.post(lambda: (called.append(1), loop.stop()))).start()
    loop.run()
    assert [1] == called


def test_an_error_is_told_and_the_loop_goes_on(loop, errors) -> None:
    loop.post(lambda: 1 / 0)
    loop.later(0.01, loop.stop)
    loop.run()
    assert [ZeroDivisionError] == [type(error) for error in errors]


def test_a_signal_is_a_callback_like_any_other(loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        loop.on_signal(signal.SIGUSR1, loop.stop)
        loop.later(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_is_forgotten_in_the_same_round_is_not_called(loop) -> None:
    called = []
    pipes = [os.pipe(), os.pipe()]

    def forget_both() -> None:
        called.append(1)
        for reader, _ in pipes:
            loop.forget(reader)

    for reader, writer in pipes:
        loop.watch(reader, forget_both)
        os.write(writer, b"x")
    loop.later(0.02, loop.stop)
    loop.run()
    assert [1] == called
    for pipe in pipes:
        for end in pipe:
            os.close(end)


def test_a_callback_that_posts_forever_does_not_starve_timers(loop) -> None:
    def again() -> None:
        loop.post(again)

    loop.post(again)
    loop.later(0.01, loop.stop)
    loop.run()
