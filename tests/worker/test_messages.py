"""Messages survive the wire, and a message of another kind or version does not pass."""

from __future__ import annotations

import msgspec
import pytest

from autotune.measure.comparison import Rules, compare
from autotune.store.records import Measurement
from autotune.worker import messages

CONFIGURATION = {"implementation": "torch", "threads": 2, "layout": "nk", "split": None, "scale": 0.5}


@pytest.mark.parametrize(
    "request_",
    [
        messages.Prepare("linear", {"m": 1, "dtype": "bfloat16"}, ("m",), 7),
        messages.Build("a", CONFIGURATION),
        messages.Check("a", 1),
        messages.Measure("a", 0.5, 10, None, "cold"),
        messages.Compare(("a", "b"), "a", None, Rules(), 3),
        messages.Release("a"),
        messages.MeasureCeilings(),
    ],
)
def test_requests_come_back_as_they_went(request_):
    assert messages.decode_request(messages.encode(request_)) == request_


@pytest.mark.parametrize(
    "reply",
    [
        messages.Ready(1, 17, 1 << 28, {"torch": "2.13.0", "knobs": {"OMP_NUM_THREADS": "2"}}),
        messages.Prepared(10, 20, "float32", 0.1, 8),
        messages.Measured(Measurement((1, 2, 3), "converged", "monotonic", clocks={"cpu": 2600.0})),
        messages.Compared(compare(lambda i: 1e6 + i, ["a", "b"], baseline="a", rules=Rules(round_cap=5))),
        messages.Failed("wrong", "NaN", "a", True),
    ],
)
def test_replies_come_back_as_they_went(reply):
    assert messages.decode_reply(messages.encode(reply)) == reply


def test_a_reply_is_no_request():
    with pytest.raises(msgspec.ValidationError):
        messages.decode_request(messages.encode(messages.Checked(0.1)))
