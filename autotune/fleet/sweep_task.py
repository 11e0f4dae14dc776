"""What runs on a node of a Ray cluster: one problem tuned on one device, in a history of its own.

Orders and results are MessagePack, which says what is wrong with them; Ray's own pickles carry only bytes.
"""

from __future__ import annotations

import socket
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec

import autotune
from autotune.config import MeasureSettings  # noqa: TC001 - msgspec evaluates it
from autotune.errors import StateError, TrialError, UsageError
from autotune.fingerprint.fingerprint import Device  # noqa: TC001 - msgspec evaluates it

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.space.problem import Problem
    from autotune.store.history import History


class Order(msgspec.Struct, frozen=True):
    """One problem to tune on one device.

    Attributes:
        version: of the autotune that orders; another version may measure otherwise.
        device: digest of the device.
        seconds: the budget.
        trials: most configurations tried; None for no limit but the budget.
        modules: that register workloads.
    """

    version: str
    device: str
    workload: str
    dimensions: dict[str, int | str]
    objective: str
    max_error: float | None
    seconds: float
    trials: int | None
    seed: int
    measure: MeasureSettings
    modules: tuple[str, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """What became of an order.

    Attributes:
        node: where, for people.
        device: with its facts; None where it was not found.
        stack: facts of the software.
        bundle: the winner with its study, see `autotune.exports.bundle`; empty where there is none.
        failure: why there is none, one line.
    """

    node: str
    device: Device | None = None
    stack: dict[str, Any] = {}
    bundle: bytes = b""
    failure: str = ""


def carry_out(encoded: bytes) -> bytes:
    """Carry out an order; what goes wrong with the node is raised, for Ray to try another one.

    Args:
        encoded: an `Order`.

    Returns:
        An encoded `Result`.
    """
    order = msgspec.msgpack.decode(encoded, type=Order)
    return msgspec.msgpack.encode(_carried_out(order))


def _carried_out(order: Order) -> Result:
    from autotune.workloads.registry import declaration, import_module

    node = socket.gethostname()
    if order.version != autotune.__version__:
        theirs = f"autotune {autotune.__version__}, the sweep {order.version}"
        return Result(node, failure=f"{node} has {theirs}; install the same on every node")
    try:
        for module in order.modules:
            import_module(module)
        problem = declaration(order.workload).problem(order.dimensions)
        device = _device(order.device)
    except UsageError as error:
        return Result(node, failure=f"{node}: {error}")
    with _leased(), tempfile.TemporaryDirectory(prefix="autotune-sweep-") as folder:
        from autotune.store import open_history

        with open_history(folder) as history:
            return _tuned(order, problem, device, history, node)


def _tuned(order: Order, problem: Problem, device: Device, history: History, node: str) -> Result:
    from autotune.config import load_settings
    from autotune.exports import bundle
    from autotune.measure.comparison import Rules
    from autotune.search.study import Budget
    from autotune.search.tuning import Goal, Tuner
    from autotune.worker.configured import configured_worker

    measure = order.measure
    rules = Rules(margin=measure.margin, confidence=measure.confidence)
    budget = Budget(order.seconds, order.trials, measure.screen_seconds, measure.final_share)
    with configured_worker(load_settings().worker, device, order.modules) as worker:
        tuner = Tuner(history, worker, device, rules, order.seed)
        facts = worker.stack()
        try:
            tuner.tune(problem, Goal(order.objective, order.max_error), budget)
        except TrialError as error:
            return Result(node, device, facts, failure=f"the baseline failed: {error}")
    made = bundle.write(bundle.collect(history, trials=True))
    return Result(node, device, facts, made)


def _device(digest: str) -> Device:
    """The device that is meant. Ray shows a task only the GPUs that are its own.

    Raises:
        UsageError: it is not here.
    """
    from autotune.fingerprint import probe

    found = {device.digest: device for device in probe().devices}
    if digest not in found:
        there = ", ".join(f"{one.name} {one.digest}" for one in found.values())
        raise UsageError(
            f"device {digest} is not here ({there}); start the node with "
            'ray start --resources="$(autotune fingerprint --ray)"'
        )
    return found[digest]


@contextmanager
def _leased() -> Iterator[None]:
    """Keep the node's daemon, if there is one, off its devices meanwhile."""
    from autotune.daemon.control import Pause, Resume, ask

    try:
        lease = ask(Pause(wait=True, held=True, reason="autotune tune --on ray"), patience_seconds=60.0)
    except StateError:  # none runs, or it is not for us to ask; the idle gate notices what we do in any case
        lease = None
    try:
        yield
    finally:
        if lease is not None:
            # One that cannot be given back ends with this process.
            with suppress(StateError, UsageError):
                ask(Resume(lease=lease["lease"]), patience_seconds=10.0)
