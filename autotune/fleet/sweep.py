"""A plan spread over the devices of a Ray cluster, one problem at a time on each.

Ray places the tasks, queues what finds no device free, and tries again what a lost node or a failing task
left.
A node says which devices it has by custom resources, one name per device digest:

    ray start --resources="$(autotune fingerprint --ray)"
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec

from autotune.errors import MissingExtraError, UsageError
from autotune.fleet.sweep_task import Result, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from autotune.fingerprint import Device
    from autotune.fleet.sweep_task import Order

PREFIX = "autotune"
MOST_RETRIES = 2
"""Times that a problem is tried again after its node was lost or its task failed."""
LOOK_SECONDS = 0.5
LOST_SECONDS = 60.0
"""After which a device that no living node has counts as gone for good."""
CANCEL_SECONDS = 10.0


@dataclass(frozen=True)
class Kind:
    """Equal devices of a cluster.

    Attributes:
        kind: `cpu`, `cuda` or `rocm`.
        digest: of the devices.
        count: how many there are.
        cpus: that a task on one takes, so that nothing else that Ray starts runs beside it.
    """

    kind: str
    digest: str
    count: int
    cpus: float

    @property
    def resource(self) -> str:
        """The name of the custom resource."""
        return f"{PREFIX}-{self.kind}-{self.digest}"


def resources(devices: Sequence[Device]) -> str:
    """What a node tells Ray of its devices: the value of `ray start --resources`."""
    names = [Kind(device.kind, device.digest, 1, 0).resource for device in devices]
    return json.dumps({name: names.count(name) for name in dict.fromkeys(names)})


class Cluster:
    """A connection to a Ray cluster.

    Args:
        where: `ray` for the one this host is part of, or that `RAY_ADDRESS` names; `ray://host:10001` for
            the Ray client's server of another.

    Raises:
        UsageError: there is none.
        MissingExtraError: `autotune[ray]` is not installed.
    """

    def __init__(self, where: str) -> None:
        if where != "ray" and not where.startswith("ray://"):
            raise UsageError(f"--on {where!r}: expected ray, or ray://HOST:PORT")
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("--on ray", "ray", str(error.name or "ray")) from None
        self._ray = ray
        try:
            ray.init(
                address="auto" if where == "ray" else where,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UsageError(
                f"--on {where}: no Ray cluster: {reason}; start one with 'ray start', see docs/cluster.md"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def kinds(self, device: str | None = None) -> list[Kind]:
        """The devices of the living nodes, by digest.

        Args:
            device: a kind, a digest or its beginning; None for all.

        Raises:
            UsageError: there are none.
        """
        found: dict[str, Kind] = {}
        for resources_of in self._nodes():
            for name, count in resources_of.items():
                kind = _kind(name, int(count), resources_of.get("CPU", 0.0))
                if kind is not None:
                    known = found.get(name, Kind(kind.kind, kind.digest, 0, kind.cpus))
                    cpus = min(known.cpus, kind.cpus)
                    found[name] = Kind(kind.kind, kind.digest, known.count + kind.count, cpus)
        meant = [
            kind
            for kind in found.values()
            if device in (None, kind.kind) or kind.digest.startswith(device or "")
        ]
        if not meant:
            there = ", ".join(f"{kind.kind} {kind.digest}" for kind in found.values())
            wanted = f"no device {device!r} among {there}" if there else "no node says which devices it has"
            raise UsageError(
                f"the Ray cluster has {wanted}; start its nodes with "
                'ray start --resources="$(autotune fingerprint --ray)"'
            )
        return meant

    def carry_out(
        self, orders: Sequence[tuple[Kind, Order]], observe: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[Order, Result]]:
        """Carry out orders, as devices become free; yields each with its result, in the order they end.

        Args:
            orders: the most valuable first.
            observe: called now and then with the number of devices at work.

        Raises:
            KeyboardInterrupt: asked to stop; what ran was stopped, on every node.
        """
        run = self._ray.remote(carry_out)
        waiting: dict[Any, tuple[Kind, Order]] = {}
        for kind, order in orders:
            task = run.options(
                name=f"autotune {order.workload}",
                resources={kind.resource: 1},
                num_cpus=kind.cpus,
                num_gpus=0 if kind.kind == "cpu" else 1,
                max_retries=MOST_RETRIES,
                retry_exceptions=True,
            )
            waiting[task.remote(msgspec.msgpack.encode(order))] = (kind, order)
        seen = time.monotonic()
        try:
            while waiting:
                done, _ = self._ray.wait(list(waiting), timeout=LOOK_SECONDS)
                for reference in done:
                    yield waiting.pop(reference)[1], self._result(reference)
                living = self._living()
                observe(min(len(waiting), sum(living.values())))
                if any(kind.resource in living for kind, _ in waiting.values()):
                    seen = time.monotonic()
                if time.monotonic() - seen > LOST_SECONDS:
                    yield from self._given_up(waiting)
        except KeyboardInterrupt:
            self._cancel(waiting)
            raise

    def _result(self, reference: Any) -> Result:
        """What a task came to, or why Ray gave it up."""
        from ray.exceptions import RayError

        try:
            return msgspec.msgpack.decode(self._ray.get(reference), type=Result)
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            text = next((line for line in str(cause).splitlines() if line.strip()), "")
            why = f"{type(cause).__name__}: {' '.join(text.split())[:200]}"
            return Result("", failure=f"given up after {1 + MOST_RETRIES} tries: {why}")

    def _living(self) -> dict[str, int]:
        """Devices of living nodes, by the name of their resource."""
        living: dict[str, int] = {}
        for resources_of in self._nodes():
            for name, count in resources_of.items():
                if name.startswith(f"{PREFIX}-"):
                    living[name] = living.get(name, 0) + int(count)
        return living

    def _nodes(self) -> list[dict[str, float]]:
        """What each living node has."""
        nodes = self._ray.nodes()  # type: ignore[no-untyped-call]  # theirs has no types
        return [node["Resources"] for node in nodes if node["Alive"]]

    def _given_up(self, waiting: dict[Any, tuple[Kind, Order]]) -> Iterator[tuple[Order, Result]]:
        """No node that could carry these out is left."""
        for reference, (kind, order) in list(waiting.items()):
            self._ray.cancel(reference)
            del waiting[reference]
            yield order, Result("", failure=f"no node with device {kind.digest} is left in the cluster")

    def _cancel(self, waiting: dict[Any, Any]) -> None:
        """Stop what runs: a task is interrupted as a person would, and ends its worker."""
        for reference in waiting:
            self._ray.cancel(reference)
        self._ray.wait(list(waiting), num_returns=len(waiting), timeout=CANCEL_SECONDS)


def _kind(name: str, count: int, cpus: float) -> Kind | None:
    """The devices that a resource's name speaks of; None if it is not ours."""
    prefix, _, rest = name.partition("-")
    kind, _, digest = rest.partition("-")
    if prefix != PREFIX or kind not in ("cpu", "cuda", "rocm") or not digest:
        return None
    return Kind(kind, digest, count, cpus if kind == "cpu" else min(cpus, 1.0))
