"""`autotune load`: latency against rate of a modelled engine, the largest rate, and mistakes in one line."""

from __future__ import annotations

import json

import pytest

from autotune.cli import main

ENGINE = ("load", "--engine", "step=10ms", "--max-num-seqs", "1", "--max-num-batched-tokens", "1")
ONE_TOKEN = ("--prompt-tokens", "1", "--output-tokens", "1")


def printed(capsys, *words: str) -> list:
    """What the command prints as JSON."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_modelled_engine_waits_as_theory_says(capsys):
    """Mean wait of constant service at 70 % within 5 %, and the definitions beside the figures."""
    (told,) = printed(capsys, *ENGINE, *ONE_TOKEN, "--rate", "70", "--requests", "40000", "--seed", "7")
    assert told["queueing"]["mean"] == pytest.approx(0.7 * 0.01 / (2 * 0.3), rel=0.05)
    assert told["growth"]["saturated"] is False
    assert told["definitions"]["ttft"].startswith("first token minus scheduled arrival")


def test_latency_is_told_against_rate(capsys):
    """A row for each rate, what is over-saturated among them, and what needs more requests."""
    assert main([*ENGINE, *ONE_TOKEN, "--rate", "50,130", "--requests", "700"]) == 0
    told = capsys.readouterr().out
    assert "at 130/s: over-saturated: the time to first token grew by" in told
    assert (
        "at 50/s: not enough requests for p99, p99.9: 630 answered, p99 needs 662, p99.9 needs 6636" in told
    )


def test_the_largest_rate_is_told_with_its_batch(capsys):
    """Of several batches the one that allows the largest rate comes first."""
    words = ("--engine", "step=10ms,decode=1ms", "--max-num-seqs", "1,4", "--requests", "500")
    found = printed(
        capsys, "load", *words, "--output-tokens", "4", "--largest", "--e2e", "200ms", "--percentile", "90"
    )
    assert ["4 sequences", "1 sequences"] == [one["batch"] for one in found]
    assert found[0]["rate"] > found[1]["rate"] > 0


def test_a_trace_is_loaded_at_its_own_rate(capsys, tmp_path):
    """Unless another is asked for."""
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{i / 2},4,2\n" for i in range(50))
    trace.write_text(f"arrival,prompt_tokens,output_tokens\n{rows}")
    (told,) = printed(capsys, "load", "--engine", "step=1ms", "--trace", str(trace))
    assert told["offered_rate"] == pytest.approx(2.0)
    assert told["requests"] == 45


def test_nothing_answered_is_a_failure(capsys):
    """Exit 1, with the reason."""
    url = "http://127.0.0.1:9/v1/completions"
    assert main(["load", "--url", url, "--requests", "20", "--rate", "1000"]) == 1
    assert "18 of 18 requests failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give one of --spec, --url and --engine"),
        (
            ("--engine", "step=1ms", "--url", "http://x/v1/completions"),
            "give one of --spec, --url and --engine",
        ),
        (("--engine", "step"), "--engine 'step' is not TERM=TIME"),
        (("--engine", "stp=1ms"), "unknown term of --engine 'stp'; did you mean step?"),
        (("--engine", "step=soon"), "--engine step 'soon' is not a duration"),
        (("--engine", "step=1ms", "--rate", "0"), "--rate '0' is not a list of requests per second"),
        (("--engine", "step=1ms", "--largest"), "--largest needs a limit to keep"),
        (("--engine", "step=1ms", "--max-num-seqs", "1,2"), "are chosen from with --largest alone"),
        (("--engine", "step=1ms", "--max-num-batched-tokens", "8"), "--max-num-batched-tokens: expected at"),
        (("--engine", "step=1ms", "--prompt-tokens", "9-3"), "--prompt-tokens: expected 1 <= fewest <= most"),
        (("--engine", "step=1ms", "--output-tokens", "x"), "--output-tokens 'x' is not a number of tokens"),
        (("--engine", "step=1ms", "--ttft", "x"), "--ttft 'x' is not a duration"),
        (("--engine", "step=1ms", "--percentile", "100"), "--percentile: expected 50 to below 100"),
        (("--engine", "step=1ms", "--burstiness", "-1"), "--burstiness -1 is not a number above 0"),
        (("--engine", "step=1ms", "--trace", "/no.csv"), "/no.csv: cannot be read"),
        (("--engine", "step=1ms", "--tuned"), "--tuned is of a server's spec"),
        (("--url", "ftp://x"), "expected http://HOST:PORT/v1/completions"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, words, message):
    """Exit 2."""
    assert main(["load", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
