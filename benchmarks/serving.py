"""Every figure of docs/serving.md, and the steps of docs/qualifiers.md, with fixed seeds; machine, stack and
command are written beside them.

    python benchmarks/serving.py [--only theory,saturation,batch,server,step] [--out FILE] [--quick]

- `theory`: a server with one place and a constant service time against queueing theory (M/D/1): mean wait
  within 5 %, and its distribution. Fails otherwise.
- `saturation`: how often loads are called over-saturated, below, at and above what is served. Fails where
  more than 1 % of those at 0.95 are, or fewer than 99 % of those at 1.2.
- `batch`: a modelled engine: the largest rate within objectives for each batch.
- `server`: `transformers serve` with a tiny random model on this CPU: latency against rate, untuned and with
  other settings, and a second client's count and time to first token. Needs transformers[serving] and openai.
- `step`: what `benchmarks/decode_step.py` tells, half an hour of tuning. Fails where it does, unless --quick.

Sections are functions in `SECTIONS`, each of which prints its table and returns what is written down. Nothing
but `server` and `step` depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.cli.load_tables import milliseconds
from autotune.cli.options import as_plain
from autotune.cli.output import console, latency, share, table
from autotune.fingerprint import probe
from autotune.fingerprint.stack import stack_facts
from autotune.measure.load.arrivals import Lengths, open_loop
from autotune.measure.load.batching import BatchLimits, ModelledEngine, serve
from autotune.measure.load.capacity import operating_point, poisson
from autotune.measure.load.figures import figures_of
from autotune.measure.load.http_client import load_over_http
from autotune.measure.load.saturation import trend
from autotune.measure.load.slo import Slo
from autotune.server.bench import ServerBench
from autotune.server.spec import load_spec
from autotune.space.searchspace import SearchSpace
from tests.measure.queueing import mean_wait, wait_at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.measure.load.records import Record

ROOT = Path(__file__).parents[1]
SEED = 7
ONE_TOKEN, ONE_PLACE = Lengths((1, 1), (1, 1)), BatchLimits(1, 1)
UTILISATIONS = (0.3, 0.5, 0.7, 0.8, 0.9)
RATES = (2.0, 4.0, 8.0, 16.0, 32.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "untuned": {},
    "1 thread": {"OMP_NUM_THREADS": 1},
    "1 thread, batching": {"OMP_NUM_THREADS": 1, "continuous_batching": True},
}


def constant_service(utilisation: float, requests: int, seed: int) -> list[Record]:
    """Requests through a server with one place that takes a second for each."""
    arrivals = open_loop(utilisation, requests, ONE_TOKEN, seed=seed)
    return serve(arrivals, ModelledEngine(step_seconds=1.0), ONE_PLACE)


def theory(quick: bool) -> tuple[list[dict[str, Any]], bool]:
    """Waits of constant service against Pollaczek and Khinchine's mean, and Erlang's distribution."""
    rows = []
    told = table(
        "utilisation", "mean wait, s", "theory", "off by", "p90, s", "P(wait <= p90)", right=range(6)
    )
    for utilisation in UTILISATIONS:
        requests = 40_000 if quick else 500_000
        waits = figures_of(constant_service(utilisation, requests, SEED), offered_rate=utilisation).queueing
        expected = mean_wait(utilisation, 1.0)
        off = waits.mean / expected - 1
        share = wait_at_most(waits.p90, utilisation, 1.0)
        rows.append(
            {
                "utilisation": utilisation,
                "requests": requests,
                "mean": waits.mean,
                "theory": expected,
                "off": off,
                "p90": waits.p90,
                "theory_at_most_p90": share,
            }
        )
        cells = (f"{waits.mean:.4f}", f"{expected:.4f}", f"{100 * off:+.1f} %", f"{waits.p90:.3f}")
        told.add_row(f"{utilisation:g}", *cells, f"{share:.4f}")
    console.print(told)
    return rows, all(abs(row["off"]) < 0.05 for row in rows)


def saturation(quick: bool) -> tuple[list[dict[str, Any]], bool]:
    """How often a load is called over-saturated, by what it asks for, over seeds."""
    rows = []
    columns = ("utilisation", "requests", "called over-saturated")
    told = table(*columns, right=columns)
    seeds = 40 if quick else 300
    for requests in (300, 1000):
        for utilisation in (0.8, 0.95, 1.0, 1.05, 1.1, 1.2):
            called = 0
            for seed in range(seeds):
                records = constant_service(utilisation, requests, seed)
                found = trend([one.arrival for one in records], [one.ttft for one in records])
                called += found is not None and found.saturated
            rows.append({"utilisation": utilisation, "requests": requests, "called": called / seeds})
            told.add_row(f"{utilisation:g}", str(requests), f"{100 * called / seeds:.1f} %")
    console.print(told)
    good = all(
        row["called"] <= 0.01 if row["utilisation"] <= 0.95 else row["called"] >= 0.99
        for row in rows
        if row["utilisation"] <= 0.95 or (row["utilisation"] == 1.2 and row["requests"] == 1000)
    )
    return rows, good


def batch(quick: bool) -> tuple[list[dict[str, Any]], bool]:
    """The largest rate of a modelled engine by its batch: 5 ms a step, 20 us a token, 0.1 ms a sequence."""
    engine = ModelledEngine(0.005, 20e-6, 1e-4, 5e-9)
    slo = Slo(ttft_ms=300, tpot_ms=25)
    points = operating_point(
        engine,
        [BatchLimits(places, 2048) for places in (8, 16, 32, 64, 128, 256)],
        poisson(800 if quick else 4000, Lengths((128, 512), (32, 128)), SEED),
        slo,
        start=4.0,
    )
    rows = []
    columns = ("batch", "largest rate/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99")
    told = table(*columns, right=columns)
    for point in sorted(points, key=lambda one: one.limits.max_num_seqs):
        figures = point.capacity.figures
        rows.append({"max_num_seqs": point.limits.max_num_seqs, **as_plain(point.capacity)})
        times = (figures.ttft.p50, figures.ttft.p99, figures.tpot.p50, figures.tpot.p99) if figures else ()
        told.add_row(str(point.limits.max_num_seqs), f"{point.capacity.rate:.1f}", *map(milliseconds, times))
    console.print(f"limits: {slo}")
    console.print(told)
    return rows, True


def server(quick: bool) -> tuple[dict[str, Any], bool]:
    """`transformers serve` with a tiny model: latency against rate by setting, and a second client."""
    import transformers

    program = Path(transformers.__file__).parents[4] / "bin" / "transformers"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "tests.server.tiny_model", folder], check=True, cwd=ROOT)
        spec = load_spec("transformers", {"model": folder, "program": str(program)})
        baseline = SearchSpace.build(spec.declaration, spec.problem, {"kind": "cpu"}).baseline
        curves, agreement = [], {}
        columns = ("rate/s", "good/s", "TTFT p50", "TTFT p90", "TPOT p50", "E2E p90", "memory")
        told = table("setting", *columns, "", right=columns)
        with ServerBench(spec, "latency") as bench:
            for name, settings in SETTINGS.items():
                bench.build(name, {**baseline, **settings})
                for rate in RATES[: 2 if quick else len(RATES)]:
                    figures = _loaded(bench, rate, 40 if quick else 120)
                    curves.append({"setting": name, **as_plain(figures)})
                    told.add_row(name, *_cells(figures), "saturated" if figures.saturated else "")
                    if figures.saturated:
                        break
                if name == "1 thread":
                    agreement = _second_client(bench)
        console.print(told)
        console.print(agreement)
    return {"curves": curves, "second_client": agreement}, agreement["same_answers"]


def _loaded(bench: ServerBench, rate: float, requests: int) -> Any:
    arrivals = open_loop(rate, requests, Lengths((16, 64), (8, 16)), seed=SEED)
    records = load_over_http(bench.endpoint(), arrivals, seed=SEED)
    figures = figures_of(records, offered_rate=rate, slo=Slo(ttft_ms=500, percentile=90))
    return replace(figures, **bench.look())


def _cells(figures: Any) -> tuple[str, ...]:
    return (
        f"{figures.offered_rate:g}",
        f"{figures.goodput:.2f}",
        milliseconds(figures.ttft.p50),
        milliseconds(figures.ttft.p90),
        milliseconds(figures.tpot.p50),
        milliseconds(figures.e2e.p90),
        f"{figures.peak_memory_bytes / 2**20:.0f} MiB",
    )


def _second_client(bench: ServerBench) -> dict[str, Any]:
    """Ours and the `openai` package in turn, one request at a time, after four for warm-up."""
    import openai

    endpoint = bench.endpoint()
    client = openai.OpenAI(base_url=bench.spec.url("/v1", bench.port), api_key="none", max_retries=0)
    ours, theirs, same = [], [], 0
    requests = open_loop(1.0, 64, Lengths((8, 24), (4, 8)), seed=SEED)
    for one in requests:
        (record,) = load_over_http(endpoint, [replace(one, seconds=0.0)], seed=SEED, keep_text=True)
        body = endpoint.request(one.prompt_tokens, one.output_tokens, (SEED, one.number))
        began, first, texts, usage = time.perf_counter(), math.nan, [], None
        for event in client.completions.create(**body):
            if event.choices[0].text:
                first = first if texts else time.perf_counter()
                texts.append(event.choices[0].text)
            usage = event.usage or usage
        same += record.text == "".join(texts) and record.output_tokens == usage.completion_tokens
        ours.append(record.ttft)
        theirs.append(first - began)
    ratios = np.array(ours[4:]) / np.array(theirs[4:])
    return {
        "requests": len(requests),
        "same_answers": same == len(requests),
        "ttft_ms_ours": 1e3 * statistics.median(ours[4:]),
        "ttft_ms_theirs": 1e3 * statistics.median(theirs[4:]),
        "ratio_median": float(np.median(ratios)),
    }


def step(quick: bool) -> tuple[dict[str, Any], bool]:
    """Tuned decode steps against PyTorch's own defaults, each in its own interleaved rounds."""
    words = ["--seed", str(SEED), "--json"]
    if quick:
        words += ["--model", "llama-3.1-8b", "--batches", "1", "--budget", "30", "--trials", "2"]
    program = [sys.executable, str(ROOT / "benchmarks" / "decode_step.py"), *words]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if not done.stdout:
        raise SystemExit(f"decode_step.py ended with status {done.returncode}; what it said is above")
    told: dict[str, Any] = json.loads(done.stdout)
    numbers = ("batch", "untuned p50", "tuned p50", "tuned p99", "CV", "speed-up")
    shown = table("layers", *numbers, right=numbers)
    for one in told["steps"]:
        problem, tuned = one["problem"], one["tuned"]
        shown.add_row(
            f"hidden={problem['hidden']}",
            str(problem["batch"]),
            latency(one["untuned"]["p50_ns"]),
            latency(tuned["p50_ns"]),
            latency(tuned["p99_ns"]),
            share(tuned["variation"]),
            "{:.2f}x [{:.2f}, {:.2f}]".format(*one["speedup"]),
        )
    console.print(shown)
    return told, quick or done.returncode == 0


SECTIONS: dict[str, Callable[[bool], tuple[Any, bool]]] = {
    "theory": theory,
    "saturation": saturation,
    "batch": batch,
    "server": server,
    "step": step,
}


def main() -> int:
    """Run the sections; exit status 1 where one missed what it must show."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "serving.json")
    parser.add_argument("--quick", action="store_true", help="fewer requests, to see that it runs")
    given = parser.parse_args()
    unknown = sorted(set(given.only.split(",")) - set(SECTIONS))
    if unknown:
        parser.error(f"--only: unknown section {unknown[0]!r}; expected some of {', '.join(SECTIONS)}")
    missed, results = [], {}
    for name in given.only.split(","):
        console.print(f"\n{name}: {SECTIONS[name].__doc__.partition(chr(10))[0]}")
        results[name], good = SECTIONS[name](given.quick)
        missed += [] if good else [name]
    host = probe()
    written = {
        "command": " ".join(["python", "benchmarks/serving.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": [as_plain(device.facts) for device in host.devices],
        "stack": stack_facts(),
        "load_average": os.getloadavg(),
        "seed": SEED,
        "results": results,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(written, indent=1, default=str) + "\n")
    console.print(f"\nwritten to {given.out}")
    for name in missed:
        console.print(f"{name}: missed what it must show")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
