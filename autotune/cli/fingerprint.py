"""`autotune fingerprint`: what this machine is, and what it reaches at best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.fingerprint import Ceilings, Device, Fingerprint


def fingerprint(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure the ceilings anew; otherwise once per device and stack."),
    ] = False,
    ceilings: Annotated[bool, typer.Option(help="Show measured ceilings, measuring them if need be.")] = True,
    ray: Annotated[
        bool, typer.Option("--ray", help="Print the devices as 'ray start --resources' takes them.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show the devices and the software stack, their digests and measured ceilings."""
    from autotune.cli import output
    from autotune.fingerprint import probe

    found = probe()
    if ray:
        from autotune.fleet.sweep import resources

        print(resources(found.devices))
        return
    cpu = next(device for device in found.devices if device.kind == "cpu")
    limits = _ceilings(cpu, measure) if ceilings else None
    if json:
        output.print_json(
            {
                "devices": found.devices,
                "stack": {"digest": found.stack_digest, **found.stack},
                "ceilings": {cpu.digest: limits},
                "problems": found.problems,
            }
        )
        return
    _print(found, cpu, limits)


def _ceilings(device: Device, anew: bool) -> Ceilings:
    from autotune.config import load_settings
    from autotune.fingerprint import ceilings as known
    from autotune.fingerprint.stack import stack_digest
    from autotune.worker.configured import configured_worker

    with configured_worker(load_settings().worker, device) as worker:
        stack = stack_digest(device.kind, worker.stack())
        found = None if anew else known.load(device.digest, stack)
        if found is None:
            found = worker.ceilings()
            known.save(device.digest, stack, found)
    return found


def _print(found: Fingerprint, cpu: Device, limits: Ceilings | None) -> None:
    from autotune.cli import output

    for device in found.devices:
        facts = {name: value for name, value in device.facts.items() if value not in (None, "", [])}
        facts = {
            name: output.size(value) if name.endswith("_bytes") else _plain(value)
            for name, value in facts.items()
        }
        output.console.print(f"{device.kind}:{device.index} {device.name}, device digest {device.digest}")
        output.console.print(output.facts(facts))
        if limits and device is cpu:
            output.console.print("measured ceilings")
            rates = {
                f"matmul {dtype}": output.rate(rate, "FLOP/s") for dtype, rate in limits.matmul_flops.items()
            }
            bandwidth = output.rate(limits.memory_bandwidth_bytes_per_s, "B/s")
            measured = {"memory bandwidth": bandwidth, **rates, "measured": output.moment(limits.measured_at)}
            output.console.print(output.facts(measured))
        output.console.print()
    output.console.print(f"stack digest {found.stack_digest}")
    output.console.print(output.facts({name: _plain(value) for name, value in found.stack.items() if value}))
    for problem in found.problems:
        output.console.print(f"\nnot probed: {problem}")


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
