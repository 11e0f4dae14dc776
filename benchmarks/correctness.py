"""Every implementation over its space's corners against a float64 reference, on the device that is there.

    python benchmarks/correctness.py [--device cuda] [--workload rms_norm ...] [-p rows=64,hidden=512]
        [--corners 8] [--error 0.3] [--seconds 1200] [--out FILE.json]

Each configuration is built, run on fresh inputs with poisoned outputs and compared, in a worker: one that
crashes or hangs costs a row, not the run. An implementation may be as far off as the baseline, give or take
the order of summation; one that quantises what the problem does not (offered because any error is allowed
here) by `--error`. Exits 1 when one is wrong, crashes, hangs, or does not build although its space calls it
valid. On GPUs it has not run yet; on a CPU it checks the implementations that a CPU has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.cli.options import problem
from autotune.config import load_settings
from autotune.errors import AutotuneError, TrialError
from autotune.fingerprint import device_named
from autotune.space.searchspace import SearchSpace
from autotune.worker.configured import configured_worker
from autotune.workloads.registry import declaration
from benchmarks.space_corners import ANY_ERROR, PROBLEMS, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.fingerprint import Device
    from autotune.space.problem import Problem
    from autotune.worker.worker import Worker

SLACK = 0.1
"""Other roundings than the baseline's."""
FLOAT32_ROUNDING = 2e-6
SEED = 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workload", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("-p", "--problem", nargs="+", help="instead of its own; with one workload")
    parser.add_argument("--corners", type=int, default=8, help="of each implementation, or a few more")
    parser.add_argument("--error", type=float, default=0.3, help="that lossy implementations may have")
    parser.add_argument("--seconds", type=float, default=1200, help="after which no further problem is begun")
    parser.add_argument("--out", type=Path, help="where every row is written, too")
    options = parser.parse_args()
    try:
        device = device_named(options.device)
        if device.index < 0:
            parser.error(f"--device {options.device}: is a profile, and no device of this host")
        rows = _rows(device, options)
    except AutotuneError as error:
        print(f"correctness: {error}", file=sys.stderr)
        return error.exit_code
    failed = [row for row in rows if row["failure"]]
    print(f"{len(rows)} configurations, {len(failed)} failed, on {device.name}")
    return 1 if failed or not rows else 0


def _rows(device: Device, options: argparse.Namespace) -> list[dict[str, Any]]:
    started, rows = time.monotonic(), []
    print(f"{'implementation':24} {'checked':>7} {'failed':>6} {'worst error':>11} {'baseline':>9}")
    with configured_worker(load_settings().worker, device) as worker:
        for workload in options.workload:
            texts = options.problem or [_text(each) for each in PROBLEMS[workload]]
            for text in texts:
                if time.monotonic() - started > options.seconds:
                    print(f"{workload} {text}: not begun, {options.seconds:g} s are over")
                    continue
                rows += _problem(worker, device, problem(workload, [text]), options)
                if options.out:
                    options.out.write_text(json.dumps({"device": device.name, "rows": rows}, indent=1))
    return rows


def _text(dimensions: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in dimensions.items())


def _problem(
    worker: Worker, device: Device, wanted: Problem, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Check the corners of one problem; prints a line for each implementation."""
    print(wanted, flush=True)
    declared = declaration(wanted.workload)
    exact = SearchSpace.build(declared, wanted, device.facts)
    every = SearchSpace.build(declared, wanted, device.facts, ANY_ERROR)
    worker.prepare(wanted, SEED)
    worker.build("baseline", every.baseline)
    baseline = worker.check("baseline", SEED)
    rows = []
    for offer in every.offers:
        if not offer.valid:
            continue
        found = spread(list(_configurations(every, offer.name)), options.corners)
        made = []
        for one in found:
            lossy = exact.pool.find(one) is None
            limit = options.error if lossy else max(baseline * (1 + SLACK), FLOAT32_ROUNDING)
            made.append(_checked(worker, wanted, one, limit) | {"baseline_error": baseline, "lossy": lossy})
        failed = [row for row in made if row["failure"]]
        worst = max((row["error"] for row in made if row["error"] is not None), default=float("nan"))
        counts = f"{len(made):7} {len(failed):6} {worst:11.2e} {baseline:9.2e}"
        print(f"  {offer.name:22} {counts}", flush=True)
        for row in failed:
            print(f"    {row['failure']}: {row['configuration']}")
        rows += made
    return rows


def _configurations(space: SearchSpace, implementation: str) -> Iterator[dict[str, Any]]:
    every = (space.pool.configuration(row) for row in range(len(space)))
    return (one for one in every if one["implementation"] == implementation)


def _checked(worker: Worker, wanted: Problem, configuration: dict[str, Any], limit: float) -> dict[str, Any]:
    """What became of one configuration."""
    error, failure = None, ""
    try:
        worker.build("corner", configuration)
        error = worker.check("corner", SEED)
        if not error <= limit:  # a number that is none is wrong, too
            failure = f"wrong: relative error {error:.2e} exceeds {limit:.2e}"
    except TrialError as trial:
        failure = f"{trial.verdict}: {trial.reason}"
    worker.release("corner")
    return {"problem": str(wanted), "configuration": configuration, "error": error, "failure": failure}


if __name__ == "__main__":
    sys.exit(main())
