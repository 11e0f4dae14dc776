"""`autotune spaces`: what may be tried, and what rules the rest out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.fingerprint import Device
    from autotune.space import SearchSpace, SpaceDeclaration


def spaces(
    workload: Annotated[str | None, typer.Argument(help="A workload; all are listed without one.")] = None,
    problem: options.Dimensions = None,
    device: options.DeviceName = None,
    max_error: options.MaxError = None,
    compile: Annotated[  # noqa: A002 - as the option is called
        bool, typer.Option("--compile", help="Compile for the GPU, which need not be here: what is feasible?")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Compile this many configurations, drawn at random, not all.")
    ] = None,
    module: options.Modules = None,
    json: options.Json = False,
) -> None:
    """Show search spaces: counts before and after each constraint, and why something is not offered."""
    from autotune.cli import output
    from autotune.errors import UsageError
    from autotune.fingerprint import device_named
    from autotune.space import SearchSpace
    from autotune.workloads.registry import declaration, workload_names

    options.import_modules(module)
    if sample is not None and not compile:
        raise UsageError("--sample draws what --compile compiles; give both")
    if compile and not (workload and problem):
        raise UsageError("--compile needs a problem: autotune spaces linear -p m=16,n=2112,k=7168 --compile")
    if workload is None:
        declarations = [declaration(name) for name in workload_names()]
        output.print_json([_declared(d) for d in declarations]) if json else _print_list(declarations)
        return
    declared = declaration(workload)
    if not problem:
        output.print_json(_declared(declared)) if json else _print_declaration(declared)
        return
    target = device_named(device)
    space = SearchSpace.build(declared, options.problem(workload, problem), target.facts, max_error)
    if compile:
        from autotune.cli.feasibility import compile_space

        compile_space(space, target, sample, module or (), as_json=json)
        return
    output.print_json(_enumerated(space, target)) if json else _print_space(space, declared, target)


def _declared(declared: SpaceDeclaration) -> dict[str, Any]:
    return {
        "workload": declared.workload,
        "summary": declared.summary,
        "dimensions": {
            d.name: {
                "choices": d.choices,
                "minimum": d.minimum if d.choices is None else None,
                "maximum": d.maximum if d.choices is None else None,
                "default": d.default,
                "nearest": d.nearest,
                "summary": d.summary,
            }
            for d in declared.dimensions.values()
        },
        "implementations": declared.implementations,
        "baseline": dict(declared.baseline),
        "file": declared.where,
    }


def _enumerated(space: SearchSpace, device: Device) -> dict[str, Any]:
    return {
        "problem": str(space.problem),
        "device": device.name,
        "digest": space.digest,
        "configurations": len(space),
        "baseline": space.baseline,
        "offers": [
            {
                "implementation": offer.name,
                "withheld": offer.withheld or None,
                "points": offer.raw,
                "after": [{"constraint": name, "points": left} for name, left in offer.steps],
                "valid": offer.valid,
                "values": space.settings.get(offer.name),
            }
            for offer in space.offers
        ],
    }


def _print_list(declarations: list[SpaceDeclaration]) -> None:
    from autotune.cli import output

    table = output.table("workload", "dimensions", "implementations", "what it is")
    for declared in declarations:
        dimensions, implementations = ", ".join(declared.dimensions), ", ".join(declared.implementations)
        table.add_row(declared.workload, dimensions, implementations, declared.summary)
    output.console.print(table)


def _print_declaration(declared: SpaceDeclaration) -> None:
    from autotune.cli import output

    output.console.print(f"{declared.workload}: {declared.summary}\n{declared.where}\n")
    dimensions = output.table("dimension", "values", "default", "what it is")
    for d in declared.dimensions.values():
        values = ", ".join(d.choices) if d.choices else f"{d.minimum} to {d.maximum}"
        default = "required" if d.default is None else str(d.default)
        dimensions.add_row(d.name, values, default, d.summary)
    output.console.print(dimensions)
    implementations = output.table("implementation", "qualifiers and parameters", "requires", "what it is")
    for name, declared_implementation in declared.implementations.items():
        settings = ", ".join(declared_implementation.settings)
        implementations.add_row(
            name, settings, declared_implementation.requires, declared_implementation.summary
        )
    output.console.print(implementations)
    example = ",".join(f"{d.name}={d.choices[0] if d.choices else 16}" for d in declared.dimensions.values())
    output.console.print(
        f"Give a problem to see what is offered for it: autotune spaces {declared.workload} -p {example}"
    )


def _print_space(space: SearchSpace, declared: SpaceDeclaration, device: Device) -> None:
    from autotune.cli import output

    output.console.print(f"{space.problem} on {device.name}")
    table = output.table(
        "implementation", "points", "after each constraint", "valid", right=("points", "valid")
    )
    for offer in space.offers:
        after = f"not offered: {offer.withheld}" if offer.withheld else _steps(offer.steps)
        table.add_row(offer.name, f"{offer.raw:,}" if offer.raw else "-", after, f"{offer.valid:,}")
    output.console.print(table)
    for name, settings in space.settings.items():
        qualifiers = declared.implementations[name].qualifiers
        for setting, values in settings.items():
            kind = "qualifier" if setting in qualifiers else "parameter"
            output.console.print(f"{name}.{setting} ({kind}): {', '.join(map(str, values))}")
    baseline = output.configuration(space.baseline)
    output.console.print(
        f"\n{len(space):,} configurations; baseline: {baseline}; space digest {space.digest}"
    )


def _steps(steps: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name}: {left:,}" for name, left in steps)
