"""`autotune bench`: the published winner against the baseline, measured again now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autotune.cli import options


def bench(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    problem: options.Dimensions = None,
    seconds: Annotated[str, typer.Option("--budget", help="Time for the rounds.")] = "10s",
    seed: Annotated[int, typer.Option("--seed", help="Of inputs and order.")] = 0,
    module: options.Modules = None,
    json: options.Json = False,
) -> None:
    """Run what get_best_config() answers against the baseline, interleaved; publishes nothing."""
    from autotune import get_best_config
    from autotune.cli import output
    from autotune.config import load_settings
    from autotune.fingerprint import device_named
    from autotune.measure.comparison import Rules
    from autotune.space.searchspace import SearchSpace
    from autotune.worker.configured import configured_worker
    from autotune.workloads.registry import declaration

    options.import_modules(module)
    wanted = options.problem(workload, problem)
    device = device_named("cpu")
    dimensions: dict[str, Any] = wanted.dimensions
    found = get_best_config(workload, device="cpu", **dimensions)
    baseline = SearchSpace.build(declaration(workload), wanted, device.facts).baseline
    budget = options.seconds(seconds, "--budget")
    with configured_worker(load_settings().worker, device, module or []) as worker:
        worker.prepare(wanted, seed)
        worker.build("baseline", baseline)
        worker.build("winner", dict(found))
        errors = {slot: worker.check(slot, seed) for slot in ("baseline", "winner")}
        rules = Rules(budget_seconds=budget)
        comparison = worker.compare(["baseline", "winner"], baseline="baseline", rules=rules, seed=seed)
    proof = comparison.proofs["winner"]
    if json:
        output.print_json(
            {
                "problem": wanted.dimensions,
                "match": found.match,
                "winner": dict(found),
                "proof": proof,
                "errors": errors,
            }
        )
        return
    output.console.print(f"{output.problem(wanted)} (look-up: {found.match})")
    output.console.print(
        output.facts(
            {
                "baseline": f"{output.latency(proof.baseline_ns)}  {output.configuration(baseline)}",
                "winner": f"{output.latency(proof.latency_ns)}  {output.configuration(found)}",
                "speed-up": output.speedup(proof.against_baseline),
                "rounds": f"{proof.rounds}, {proof.stopped}",
                "error": f"{output.error(errors['winner'])}, baseline {output.error(errors['baseline'])}",
            }
        )
    )
