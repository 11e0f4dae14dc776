"""Open-loop load: arrivals, the batching loop against queueing theory, tails, saturation, capacity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.measure.load.arrivals import Lengths, at_rate, open_loop, rate_of, read_trace
from autotune.measure.load.batching import Batch, BatchLimits, MeasuredEngine, ModelledEngine, serve
from autotune.measure.load.capacity import engine_load, largest_rate, operating_point, poisson, traced
from autotune.measure.load.figures import figures_of
from autotune.measure.load.records import Record
from autotune.measure.load.saturation import trend
from autotune.measure.load.slo import Slo
from autotune.measure.load.tails import (
    Standing,
    fewest_to_keep,
    least_requests,
    overlatency_allowed,
    requests_for_margin,
    spread,
    standing,
)
from tests.measure.queueing import mean_wait, rate_with_wait, wait_at_most

ONE_TOKEN = Lengths((1, 1), (1, 1))
ONE_PLACE = BatchLimits(1, 1)


def constant_service(utilisation: float, requests: int, seed: int = 7) -> list[Record]:
    """Requests through a server with one place that takes a second for each."""
    arrivals = open_loop(utilisation, requests, ONE_TOKEN, seed=seed)
    return serve(arrivals, ModelledEngine(step_seconds=1.0), ONE_PLACE)


@pytest.mark.parametrize("utilisation", [0.5, 0.7, 0.8])
def test_waits_of_constant_service_are_those_of_queueing_theory(utilisation):
    """Mean wait within 5 % of Pollaczek and Khinchine's, the distribution within 0.01 of Erlang's."""
    records = constant_service(utilisation, 40_000)
    figures = figures_of(records, offered_rate=utilisation)
    waits = [one.queueing for one in records]
    assert figures.queueing.mean == pytest.approx(mean_wait(utilisation, 1.0), rel=0.05)
    assert figures.ttft.mean == pytest.approx(1 + figures.queueing.mean)
    for x in (0.0, 0.5, 1.0, 3.0):
        share = np.mean(np.asarray(waits) <= x + 1e-9)
        assert share == pytest.approx(wait_at_most(x, utilisation, 1.0), abs=0.01)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_variation_that_were_asked_for(burstiness):
    """Gamma gaps: mean 1 / rate, coefficient of variation burstiness ** -0.5."""
    gaps = np.diff([one.seconds for one in open_loop(20, 100_000, ONE_TOKEN, seed=3, burstiness=burstiness)])
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.02)


def test_an_infinite_burstiness_is_a_steady_beat():
    """All gaps are alike."""
    moments = [one.seconds for one in open_loop(4, 5, ONE_TOKEN, seed=0, burstiness=math.inf)]
    assert [0.25, 0.5, 0.75, 1.0, 1.25] == moments


def test_a_seed_gives_the_same_pattern_at_every_rate():
    """Arrivals are stretched, lengths are the same."""
    lengths = Lengths((1, 100), (1, 50))
    slow, fast = (open_loop(rate, 50, lengths, seed=5) for rate in (1.0, 10.0))
    assert [one.seconds for one in slow] == pytest.approx([10 * one.seconds for one in fast])
    assert [(o.prompt_tokens, o.output_tokens) for o in slow] == [
        (o.prompt_tokens, o.output_tokens) for o in fast
    ]
    assert slow != open_loop(1.0, 50, lengths, seed=6)


def test_a_trace_is_read_sorted_and_stretched(tmp_path):
    """Moments count from the first arrival; other columns are passed over."""
    file = tmp_path / "trace.csv"
    file.write_text("model,arrival,prompt_tokens,output_tokens\nx,12.5,7,3\nx,10,5,2\nx,11,6,1\n")
    trace = read_trace(file)
    assert [(0.0, 5, 2), (1.0, 6, 1), (2.5, 7, 3)] == [
        (one.seconds, one.prompt_tokens, one.output_tokens) for one in trace
    ]
    assert rate_of(trace) == 2 / 2.5
    assert rate_of(at_rate(trace, 8.0)) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival,prompt_tokens\n1,2\n", "column 'output_tokens' is missing"),
        ("arrival,prompt_tokens,output_tokens\n", "holds no request"),
        (
            "arrival,prompt_tokens,output_tokens\n1,2,3\n2,x,3\n",
            "trace.csv:3: prompt_tokens='x' is not a number",
        ),
        ("arrival,prompt_tokens,output_tokens\n1,2,0\n", "output_tokens=0 is not a whole number"),
        ("arrival,prompt_tokens,output_tokens\nnan,2,1\n", "is not a number of seconds"),
        ("arrival,prompt_tokens,output_tokens\n1,2\n", "output_tokens=None is not a number"),
    ],
)
def test_a_wrong_trace_is_told_with_its_line(tmp_path, text, message):
    """The message names the file, the line and the column."""
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=message.replace("(", r"\(")) as told:
        read_trace(file)
    assert str(file) in str(told.value)


def test_a_prompt_is_read_in_pieces_while_others_decode():
    """Steps hold at most so many tokens; a sequence decodes once its prompt is read."""
    steps: list[Batch] = []

    class Recorded:
        def step(self, batch: Batch) -> float:
            steps.append(batch)
            return 1.0

    first = open_loop(1e6, 1, Lengths((3, 3), (3, 3)), seed=0)
    late = open_loop(1.0, 1, Lengths((8, 8), (1, 1)), seed=0, burstiness=math.inf)[0]
    records = serve([*first, late], Recorded(), BatchLimits(2, 5))
    assert [
        Batch(((3, 0),), ()),
        Batch(((4, 0),), (4,)),
        Batch(((4, 4),), (5,)),
    ] == steps
    assert [3, 1] == [one.output_tokens for one in records]
    assert records[0].gaps == pytest.approx([1.0, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(0, 20),
    st.floats(0.05, 5.0),
    st.integers(0, 1000),
)
def test_every_request_gets_its_tokens_in_order(places, more, rate, seed):
    """No batch exceeds its limits, no request is lost, no moment lies before what it follows."""
    limits = BatchLimits(places, places + more)

    class Checked:
        def step(self, batch: Batch) -> float:
            assert len(batch.prefills) + len(batch.decodes) <= places
            assert 0 < batch.prefill_tokens + len(batch.decodes) <= places + more
            return 0.1 + 0.01 * batch.prefill_tokens

    arrivals = open_loop(rate, 30, Lengths((1, 9), (1, 5)), seed=seed)
    records = serve(arrivals, Checked(), limits)
    assert sorted(one.number for one in records) == list(range(30))
    for record, planned in zip(sorted(records, key=lambda one: one.number), arrivals, strict=True):
        assert record.output_tokens == planned.output_tokens == len(record.token_times)
        moments = [record.arrival, record.admitted, *record.token_times]
        assert moments == sorted(moments)


def test_a_measured_engine_moves_the_clock_by_what_its_callable_took():
    """The seconds are those between two looks at the clock."""
    ticks = iter([10.0, 10.5, 20.0, 20.25])
    ran: list[Batch] = []
    engine = MeasuredEngine(ran.append, clock=lambda: next(ticks))
    records = serve(open_loop(1e9, 1, Lengths((4, 4), (2, 2)), seed=0), engine, BatchLimits(1, 4))
    assert [Batch(((4, 0),), ()), Batch((), (5,))] == ran
    assert records[0].ttft == pytest.approx(0.5)
    assert records[0].tpot == pytest.approx(0.25)


def test_least_requests_are_those_of_loadgen():
    """64 queries for a 90th percentile and 662 for a 99th; 172 of 2,048 discarded beside the one counted."""
    assert least_requests(90) == 64
    assert fewest_to_keep(99) == 459
    assert least_requests(99) == 662
    assert least_requests(99.9) == 6_636
    assert overlatency_allowed(2_048, 90) == 173
    assert overlatency_allowed(43, 90) == -1
    assert overlatency_allowed(44, 90) == 0


def test_requests_for_a_margin_are_those_of_the_inference_rules():
    """The table of MLPerf's rules, before it is rounded up to multiples of 8,192."""
    assert [23_886, 50_425, 85_811, 262_742] == [requests_for_margin(q) for q in (90, 95, 97, 99)]


def test_no_percentile_is_told_that_the_requests_do_not_support():
    """With 100 requests there is a median and a 90th percentile, and what the others need."""
    told = spread(range(1, 101))
    assert (told.p50, told.p90) == pytest.approx((50.5, 90.1))
    assert told.p99 is None
    assert told.p99_9 is None
    assert {"p99": 662, "p99_9": 6_636} == told.missing
    assert told.bounds["p90"] >= told.p90


def test_bounds_hold_as_often_as_they_say():
    """Of 200 samples of 700, the bound on the 99th percentile lies below it at most some 1 % of times."""
    draw = np.random.default_rng(1)
    below = sum(spread(draw.random(700)).bounds["p99"] < 0.99 for _ in range(400))
    assert below <= 10


@pytest.mark.parametrize(
    ("requests", "missed", "expected"),
    [
        (458, 0, "open"),
        (459, 0, "kept"),
        (662, 1, "kept"),
        (662, 2, "open"),
        (100, 8, "broken"),
        (50, 2, "open"),
    ],
)
def test_a_limit_is_kept_broken_or_open(requests, missed, expected):
    """Either answer is 99 % sure."""
    assert standing(requests, missed, 99.0) is Standing(expected)


def test_growing_latency_is_over_saturation_and_long_latency_is_not():
    """At 1.2 times what is served all of 20 loads are found out, at 0.9 none, however long its queue."""
    found = {}
    for utilisation in (0.9, 1.2):
        trends = []
        for seed in range(20):
            records = constant_service(utilisation, 800, seed=seed)
            trends.append(trend([one.arrival for one in records], [one.ttft for one in records]))
        found[utilisation] = sum(one.saturated for one in trends)
    assert {0.9: 0, 1.2: 20} == found
    steady = trend(list(range(100)), [1e6 + (i % 3) for i in range(100)])
    assert not steady.saturated
    assert trend([0.0] * 59, [0.0] * 59) is None


def test_the_slope_is_what_comes_in_excess():
    """With 1.5 seconds of work in every second of load, latency grows by half a second."""
    records = constant_service(1.5, 2_000)
    figures = figures_of(records, offered_rate=1.5)
    assert figures.growth.slope == pytest.approx(0.5, rel=0.1)
    assert "over-saturated: the time to first token grew by 0." in figures.doubts[0]


def record(number: int, ttft: float, tokens: int = 3, failure: str = "") -> Record:
    """A request that came at its number of seconds, with 0.5 s between its tokens."""
    times = tuple(number + ttft + 0.5 * i for i in range(tokens))
    return Record(number, number, number + 0.001, None, times, tokens, 8, (times or (number,))[-1], failure)


def test_figures_count_what_their_definitions_say():
    """Warm-up dropped, failures counted as missed, times from the scheduled arrival."""
    records = [
        record(0, 9.0),
        record(1, 0.2),
        record(2, 0.4),
        record(3, 2.0),
        record(4, 0.1, failure="HTTP 500"),
    ]
    figures = figures_of(records[::-1], offered_rate=1.0, slo=Slo(ttft_ms=500, tpot_ms=501), warm_up=1)
    assert (4, 3, 1, 1) == (figures.requests, figures.answered, figures.failed, figures.warm_up)
    assert figures.good == 2
    assert figures.seconds == pytest.approx(6.0 - 1.0)
    assert figures.requests_per_s == pytest.approx(3 / 5)
    assert figures.goodput == pytest.approx(2 / 5)
    assert figures.output_tokens_per_s == pytest.approx(9 / 5)
    assert figures.ttft.mean == pytest.approx((0.2 + 0.4 + 2.0) / 3)
    assert figures.tpot.mean == pytest.approx(0.5)
    assert figures.itl.count == 6
    assert figures.e2e.mean == pytest.approx(figures.ttft.mean + 1.0)
    assert figures.queueing.count == 0
    assert {"HTTP 500": 1} == figures.failures
    assert "the first token is excluded" in figures.definitions["tpot"]
    assert any(
        "not enough requests for p50, p90, p99, p99.9: 3 answered" in doubt for doubt in figures.doubts
    )


def test_a_late_sender_is_told():
    """A load that was not offered as planned says so."""
    late = [Record(i, i, i + 0.05, None, (i + 1.0,), 1, 1, i + 1.0) for i in range(20)]
    assert any("50 ms behind its schedule" in doubt for doubt in figures_of(late, offered_rate=1.0).doubts)


def test_the_largest_rate_is_where_theory_puts_it():
    """90 % of requests at a one-place server wait at most two services: the rate follows from Erlang."""
    load = engine_load(
        ModelledEngine(step_seconds=1.0),
        ONE_PLACE,
        poisson(8_000, ONE_TOKEN, seed=11),
        Slo(ttft_ms=3_000, percentile=90),
    )
    found = largest_rate(load, 1.5, resolution=0.02)
    theory = rate_with_wait(0.9, 2.0, 1.0)
    assert 0.92 * theory < found.rate < theory, "what is claimed is shown, with 99 % confidence"
    assert found.rate < found.refused <= 1.02 * found.rate
    assert found.figures.slo_standing is Standing.KEPT
    overloaded = found.rungs[-1]
    assert overloaded.rate == 1.5
    assert overloaded.why.startswith("over-saturated")
    assert overloaded.figures.requests < 2_000, "it was ended once it could not be kept"


def test_an_over_saturated_load_is_given_up_for_its_trend():
    """Long before it ends, and with that as the reason, where nothing but the trend speaks against it."""
    load = engine_load(
        ModelledEngine(step_seconds=1.0), ONE_PLACE, poisson(8_000, ONE_TOKEN, seed=11), Slo(ttft_ms=1e9)
    )
    found = largest_rate(load, 1.3, least=1.3)
    assert found.rate == 0.0
    assert found.rungs[0].why.startswith("over-saturated: the time to first token grew by 0.")
    assert found.rungs[0].figures.requests < 2_000


def test_what_cannot_be_shown_is_not_claimed():
    """50 requests show no 99th percentile: no rate is kept, and the reason says why."""
    load = engine_load(
        ModelledEngine(step_seconds=1.0), ONE_PLACE, poisson(50, ONE_TOKEN, seed=1), Slo(ttft_ms=1e6)
    )
    found = largest_rate(load, 1.0)
    assert found.rate == 0.0
    assert found.figures is None
    assert "45 requests cannot show TTFT 1e+06 ms for 99 %" in found.rungs[0].why


def test_the_largest_batch_that_gains_nothing_is_not_chosen():
    """A step that costs the same up to four sequences: of batches of 1 to 16 the one of 4 serves most."""

    class FourLanes:
        def step(self, batch: Batch) -> float:
            lanes = math.ceil((len(batch.decodes) + len(batch.prefills)) / 4)
            return 0.01 * lanes**2

    points = operating_point(
        FourLanes(),
        [BatchLimits(places, 64) for places in (1, 2, 4, 8, 16)],
        poisson(800, Lengths((1, 1), (4, 4)), seed=2),
        Slo(e2e_ms=400, percentile=95),
        start=5.0,
        resolution=0.1,
    )
    assert points[0].limits.max_num_seqs == 4
    rates = {point.limits.max_num_seqs: point.capacity.rate for point in points}
    assert rates[1] < rates[2] < rates[4]


def test_a_trace_can_be_loaded_at_a_rate():
    """The same requests, stretched."""
    trace = open_loop(3.0, 400, ONE_TOKEN, seed=4)
    load = engine_load(ModelledEngine(step_seconds=1.0), ONE_PLACE, traced(trace), Slo(), warm_up=0)
    figures = load(0.5)
    assert figures.requests == 400
    assert figures.offered_rate == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchLimits(0), "max_num_seqs: expected at least 1"),
        (lambda: BatchLimits(8, 4), "expected at least max_num_seqs=8"),
        (lambda: Lengths((5, 4)), "prompt tokens"),
        (lambda: Slo(ttft_ms=0), "ttft_ms"),
        (lambda: Slo(percentile=100), "percentile"),
    ],
)
def test_impossible_limits_are_refused(make, message):
    """With the name of what is wrong."""
    with pytest.raises(ValueError, match=message):
        make()
