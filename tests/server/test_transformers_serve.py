"""A real `transformers serve` on the CPU with a tiny random model: loaded, tuned, asked by another client."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec.structs import replace

import autotune.server.spec
from autotune.cli import main
from autotune.measure.load.arrivals import Lengths, open_loop
from autotune.measure.load.http_client import load_over_http
from autotune.server.bench import ServerBench
from autotune.server.spec import load_spec
from autotune.space.searchspace import SearchSpace

# Found rather than imported, which would take seconds of every run that leaves these tests out.
there = all(find_spec(name) for name in ("transformers", "fastapi", "openai"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not there, reason="needs transformers[serving]"),
]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def variables(tmp_path_factory) -> dict[str, str]:
    """The tiny model, and the program that serves it."""
    import transformers

    folder = str(tmp_path_factory.mktemp("model"))
    subprocess.run([sys.executable, "-m", "tests.server.tiny_model", folder], check=True, cwd=REPOSITORY)
    # The environment that transformers is installed in; this one may only see it.
    environment = Path(transformers.__file__).parents[4]
    return {"model": folder, "program": str(environment / "bin" / "transformers")}


@pytest.fixture(scope="module")
def served(variables):
    """The shipped spec's server, untuned, running."""
    spec = load_spec("transformers", variables)
    baseline = SearchSpace.build(spec.declaration, spec.problem, {"kind": "cpu"}).baseline
    with ServerBench(spec, "latency") as bench:
        # More threads than such a small model is worth only wait for each other.
        bench.build("baseline", {**baseline, "OMP_NUM_THREADS": 1})
        yield bench


def test_a_second_client_sees_the_same_answers_counts_and_times(served):
    """Ours and the `openai` package in turn: the same text and tokens, time to first token within 20 %."""
    import openai

    endpoint = served.spec.endpoint(served.port)
    client = openai.OpenAI(base_url=served.spec.url("/v1", served.port), api_key="none", max_retries=0)
    lengths = Lengths((8, 24), (4, 8))
    ours, theirs = [], []
    for one in open_loop(1.0, 24, lengths, seed=0):
        alone = replace(one, seconds=0.0)
        (record,) = load_over_http(endpoint, [alone], seed=3, keep_text=True)
        assert record.answered
        assert record.counted_by == "usage"
        ours.append(record.ttft)
        body = endpoint.request(one.prompt_tokens, one.output_tokens, (3, one.number))
        began, first, texts, usage = time.perf_counter(), None, [], None
        for event in client.completions.create(**body):
            if event.choices[0].text:
                first = first or time.perf_counter()
                texts.append(event.choices[0].text)
            usage = event.usage or usage
        theirs.append(first - began)
        assert record.text == "".join(texts)
        assert record.output_tokens == usage.completion_tokens == one.output_tokens
        assert record.prompt_tokens == usage.prompt_tokens == one.prompt_tokens
    ratios = [ours[i] / theirs[i] for i in range(4, 24)]
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.2)


def test_a_load_is_answered_whole(served):
    """As many requests as were sent, of the lengths that were asked for; the server's memory is told."""
    served.check("baseline", 0)
    planned = open_loop(8.0, 60, Lengths((8, 24), (4, 8)), seed=1)
    records = load_over_http(served.spec.endpoint(served.port), planned, seed=1)
    assert sorted(one.number for one in records) == list(range(60))
    assert all(one.answered for one in records)
    assert sum(one.output_tokens for one in records) == sum(one.output_tokens for one in planned)
    assert served.look()["peak_memory_bytes"] > 50 * 2**20


def test_it_is_tuned(variables, tmp_path, monkeypatch, capsys):
    """A short study ends with the untuned server or one proven better, which can be written down."""
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"AUTOTUNE_{name}_DIR", str(tmp_path / name))
    config = tmp_path / "config.toml"
    config.write_text("[measure]\nconfidence = 0.8\nfinal_share = 0.7\n")
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(config))
    text = Path(autotune.server.spec.shipped_specs()["transformers"]).read_text()
    short = text.replace("requests = 200", "requests = 40").replace("rate = 2", "rate = 20")
    spec = tmp_path / "short.toml"
    short = short.replace("[32, 128]", "[8, 16]").replace("[16, 64]", "[4, 8]")
    short = short.replace('["default", 1, 2, 4, 8]', '["default", 1]').replace('"eager", "sdpa"', '"sdpa"')
    spec.write_text(short)
    chosen = [word for name, value in variables.items() for word in ("--set", f"{name}={value}")]
    words = ["tune", "server", "--spec", str(spec), *chosen, "--objective", "latency", "--device", "cpu"]
    assert main([*words, "--budget", "8m", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["winner"]["choices"][0]
    assert best["is_baseline"] or best["proof"]["against_baseline"]["low"] > 1.01
    assert best["measurement"]["load"]["failed"] == 0
    assert main(["history", "1"]) == 0
    folder = str(tmp_path / "written")
    export = ["export", "server", "--spec", str(spec), *chosen, "--objective", "latency", "--to", folder]
    assert main(export) == 0
    assert os.path.exists(os.path.join(folder, "transformers.env"))
