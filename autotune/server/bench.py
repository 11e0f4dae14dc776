"""The bench: starts a server with one configuration after another, loads it, and ends it.

It answers a study as a worker does (`autotune.worker.runner.Runner`). Only one server runs at a time, since
it has the device to itself. A sample is one start of the server: what is decided in memory layout, caches and
graphs when it starts stays as it is until it ends, and many loads of one start would all show that.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from autotune.errors import InternalError, TrialError
from autotune.measure.comparison import Rules, compare
from autotune.measure.load.arrivals import Arrival
from autotune.measure.load.capacity import largest_rate, rung_of
from autotune.measure.load.figures import figures_of, warm_up_of
from autotune.measure.load.http_client import load_over_http
from autotune.measure.load.watch import LoadWatch
from autotune.server.process import ServerProcess, free_port, port_is_free
from autotune.store.records import Feasibility, Measurement, Verdict
from autotune.worker.messages import Built, Prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from autotune.measure.comparison import Comparison
    from autotune.measure.load.figures import LoadFigures
    from autotune.measure.load.http_client import Endpoint
    from autotune.measure.load.records import Record
    from autotune.server.spec import ServerSpec
    from autotune.space.problem import Problem
    from autotune.store.records import Configuration

LEAST_SHARE = 1 / 16
"""Of the rate that the search begins with: one that meets its objectives at none above it is given up."""

STEP_AMONG_ROUNDS = 1.1
"""By what the rate is changed where it is known from an earlier start."""

STEP_IN_SCREENING = 1.4
"""The same where it is known that it must be reached."""

MOST_STARTS = 3
"""Of a measurement, where its budget allows for more: each is a sample of hundreds of requests."""

FIRST = Arrival(0, 0.0, 16, 2)
"""The request after which a server counts as started."""

PERCENTILE = {"latency": 50.0, "tail": 99.0}


class ServerBench:
    """Runs trials of a server.

    Args:
        spec: how it is started, and what it must carry.
        objective: `latency` or `tail`, of whole answers at the spec's rate; `throughput`, the largest rate.
        seed: of arrivals and prompts.
        accelerator_bytes: tells what processes of these numbers hold on accelerators.
        tell: called with a line whenever a server did not end as it should.

    Attributes:
        deadline: moment on the monotonic clock at which what runs ends as `preempted`; None for never.
        start_seconds: what the last start took.
        sample_seconds: what the last sample took, with the start of its server.
        port: that the server listens on, which runs or ran last.
    """

    def __init__(
        self,
        spec: ServerSpec,
        objective: str,
        *,
        seed: int = 0,
        accelerator_bytes: Callable[[frozenset[int]], int | None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.deadline: float | None = None
        self.start_seconds = 0.0
        self.sample_seconds = 0.0
        self._objective = objective
        self._seed = seed
        self._accelerator_bytes = accelerator_bytes
        self._tell = tell
        self._configurations: dict[str, Configuration] = {}
        self._started: set[str] = set()
        self._rates: dict[str, float] = {}
        self._answers: list[str] | None = None
        self._process: ServerProcess | None = None
        self._running = ""
        self.port = 0
        self._is_fresh = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def prepare(self, problem: Problem, seed: int) -> Prepared:  # noqa: ARG002 - the contract's
        """Nothing is made ahead of the first start."""
        self._configurations.clear()
        self._started.clear()
        self._rates.clear()
        return Prepared(flops=0, bytes=0, dtype="float32", seconds=0.0, compilers=1)

    def compile(
        self,
        configurations: Sequence[Configuration],
        target: Mapping[str, Any] | None = None,  # noqa: ARG002 - the contract's
    ) -> list[Feasibility]:
        """Nothing can be told of a server before it starts."""
        return [Feasibility()] * len(configurations)

    def build(
        self,
        slot: str,
        configuration: Configuration,
        *,
        slow_call_seconds: float | None = None,  # noqa: ARG002 - the contract's
    ) -> Built:
        """Start the server with a configuration, unless it was started with that very one before.

        Raises:
            TrialError: it ended (`crashed`, `out_of_memory`) or did not get ready in time (`hung`).
        """
        if self._configurations.get(slot) != configuration:
            self._started.discard(slot)
            self._rates.pop(slot, None)
        self._configurations[slot] = dict(configuration)
        if slot not in self._started:
            self._start(slot)
            self._started.add(slot)
        held = self._process.peak_bytes if self._process is not None and self._running == slot else 0
        return Built(compile_seconds=self.start_seconds, memory_bytes=held, call_seconds=0.0)

    def check(self, slot: str, seed: int) -> float:
        """Share of the answers' text in which the server differs from how it answered first of all.

        What the spec lets differ counts as nothing.

        Raises:
            TrialError: `wrong`: a prompt was not answered as it should be.
        """
        self._need_running(slot)
        texts = self._ask(seed)
        if self._answers is None:
            # Untuned: asked twice, for one that differs from itself cannot be held to its answers.
            self._answers, texts = texts, self._ask(seed)
        pairs = zip(self._answers, texts, strict=True)
        differs = float(np.mean([1 - _agreement(first, second) for first, second in pairs]))
        return differs if differs > self.spec.sections.check.differs else 0.0

    def measure(
        self,
        slot: str,
        *,
        budget_seconds: float,
        clearly_slower_than_ns: float | None = None,
        min_samples: int = 1,
        energy: bool = False,  # noqa: ARG002 - the contract's
    ) -> Measurement:
        """Load the server, after one start or as many as fit into the budget.

        Args:
            slot: a built one.
            budget_seconds: for more starts than needed.
            clearly_slower_than_ns: for `throughput`: a rate too low to matter need not be known.
            min_samples: fewest starts.
            energy: not measured.

        Raises:
            TrialError: what became of it instead.
        """
        bound = clearly_slower_than_ns if self._objective == "throughput" else None
        began, slower = time.monotonic(), False
        samples: list[int] = []
        while True:
            if not self._is_fresh:
                self._start(slot)
            value, figures, slower = self._sample(slot, len(samples), bound)
            samples.append(round(value))
            took = (time.monotonic() - began) / len(samples)
            enough = max(min_samples, MOST_STARTS)
            if slower or len(samples) >= enough:
                break
            if len(samples) >= min_samples and took * (len(samples) + 1) > budget_seconds:
                break
        stopped = "clearly_slower" if slower else "sample_cap"
        load = msgspec.to_builtins(figures, str_keys=True)
        return Measurement(tuple(samples), stopped, "monotonic", "hot", load=load)

    def compare(
        self,
        slots: Sequence[str],
        *,
        baseline: str,
        incumbent: str | None = None,
        rules: Rules | None = None,
        seed: int = 0,
    ) -> Comparison:
        """Interleaved starts: in each round every contender is started, loaded and ended once.

        Raises:
            TrialError: its `slot` says which contender failed.
        """
        rounds = dict.fromkeys(slots, 0)

        def sample(index: int) -> float:
            slot = slots[index]
            rounds[slot] += 1
            try:
                self._start(slot)
                # The same requests for all of a round, and others in the next one.
                return self._sample(slot, rounds[slot], None)[0]
            except TrialError as failure:
                failure.slot = slot
                raise

        return compare(
            sample, slots, baseline=baseline, incumbent=incumbent, rules=rules or Rules(), seed=seed
        )

    def release(self, slot: str) -> None:
        """Forget a slot; its server ends."""
        self._configurations.pop(slot, None)
        self._started.discard(slot)
        if self._running == slot:
            self._stop()

    def kill(self) -> None:
        """Kill the server, now."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        self._running, self._is_fresh = "", False

    def endpoint(self) -> Endpoint:
        """Where the running server answers."""
        return self.spec.endpoint(self.port)

    def look(self) -> dict[str, int | None]:
        """What the running server held at most, as `LoadFigures` names it.

        Raises:
            TrialError: it died.
        """
        process = self._process
        if process is None or not process.look():
            raise process.death("load") if process else InternalError("no server was started")
        return {"peak_memory_bytes": process.peak_bytes, "device_memory_bytes": process.peak_device_bytes}

    def _need_running(self, slot: str) -> None:
        if self._running != slot or self._process is None or not self._process.alive:
            self._start(slot)

    def _start(self, slot: str) -> None:
        """End what runs, and start a server with a slot's configuration."""
        if slot not in self._configurations:
            raise InternalError(f"slot {slot!r} is empty; expected a build before")
        self._stop()
        self._check_time("start")
        spec, configuration = self.spec, self._configurations[slot]
        host, fixed = spec.sections.host, spec.sections.port
        if fixed and not port_is_free(host, fixed):
            reason = f"start: something else listens on port {fixed}; end it, or set port = 0 in {spec.path}"
            raise TrialError(Verdict.CRASHED, reason)
        self.port = fixed or free_port(host)
        began = time.monotonic()
        self._process = ServerProcess(
            spec.command(configuration, self.port),
            spec.environment(configuration, self.port),
            spec.sections.stop.seconds,
            self._accelerator_bytes,
        )
        self._running = slot
        try:
            self._process.wait_until_ready(
                spec.url(spec.sections.ready.url, self.port), spec.sections.ready.seconds, self._is_late
            )
        except BaseException:
            self.kill()
            raise
        # Some servers make their caches and compile at the first request: no load should begin with that.
        # What is wrong with the answer is for the check to say.
        self._exchange([FIRST], self._seed)
        self.start_seconds = time.monotonic() - began
        self._is_fresh = True

    def _stop(self) -> None:
        """End what runs; a server that does not go, or leaves its port behind, is told of."""
        if self._process is None:
            return
        how = self._process.stop()
        self._process, self._running, self._is_fresh = None, "", False
        if "did not end" in how or "does not end" in how:
            self._tell(f"{self.spec.sections.name}: {how}")
        if not port_is_free(self.spec.sections.host, self.port):
            self._tell(
                f"{self.spec.sections.name}: port {self.port} is still held by a process that the server "
                "did not start itself; look for it with: ss -ltnp"
            )

    def _sample(self, slot: str, number: int, bound_ns: float | None) -> tuple[float, LoadFigures, bool]:
        """A value of what is minimised, in nanoseconds; its figures; whether it is only a lower bound."""
        began = time.monotonic()
        self._is_fresh = False
        try:
            if self._objective == "throughput":
                return self._capacity(slot, number, bound_ns)
            figures = self._load(self.spec.sections.load.rate, number, None)
            if figures.failed:
                raise self._failed(figures)
            if figures.growth is not None and figures.growth.saturated:
                raise TrialError(Verdict.INFEASIBLE, f"load: {figures.growth.reason}")
            latency = figures.e2e.percentile(PERCENTILE[self._objective])
            if latency is None:
                raise TrialError(Verdict.NOISY, f"load: {'; '.join(figures.doubts)}")
            return 1e9 * latency, figures, False
        finally:
            self.sample_seconds = self.start_seconds + time.monotonic() - began

    def _capacity(self, slot: str, number: int, bound_ns: float | None) -> tuple[float, LoadFigures, bool]:
        """Nanoseconds per request at the largest rate that meets the objectives."""
        load = self.spec.sections.load
        known = self._rates.get(slot)
        start = known or (1e9 / bound_ns if bound_ns else load.rate)

        def loaded(rate: float) -> LoadFigures:
            return self._load(rate, number, self.spec)

        if bound_ns and not known:
            rung = rung_of(start, loaded(start))
            if not rung.kept:
                if not rung.figures.answered:
                    raise self._failed(rung.figures)
                return bound_ns, msgspec.structs.replace(rung.figures, by_rate=(rung.point,)), True
        found = largest_rate(
            loaded,
            start * (STEP_IN_SCREENING if bound_ns and not known else 1),
            resolution=load.resolution,
            step=STEP_AMONG_ROUNDS if known else STEP_IN_SCREENING if bound_ns else 2.0,
            least=max(start * LEAST_SHARE, self.spec.least_rate),
        )
        points = tuple(rung.point for rung in found.rungs)
        if found.figures is None:
            slowest = found.rungs[0]
            if not slowest.figures.answered:
                raise self._failed(slowest.figures)
            reason = f"load: no rate down to {slowest.rate:.3g}/s meets the objectives: {slowest.why}"
            raise TrialError(Verdict.INFEASIBLE, reason)
        self._rates[slot] = found.rate
        return 1e9 / found.rate, msgspec.structs.replace(found.figures, by_rate=points), False

    def _load(self, rate: float, number: int, spec: ServerSpec | None) -> LoadFigures:
        """Load the running server at a rate.

        Args:
            rate: requests per second.
            number: of the sample, which has arrivals and prompts of its own.
            spec: whose objectives end the load once they cannot be met; None to watch for saturation alone.

        Raises:
            TrialError: the server died, or no time is left.
        """
        self._check_time("load")
        process = self._process
        assert process is not None, "callers have started it"
        seed = self._seed + number
        planned = self.spec.arrivals(rate, seed)
        dropped = warm_up_of(len(planned), self.spec.sections.load.warm_up)
        slo = self.spec.sections.slo
        watch = LoadWatch(slo if spec else None, len(planned) - dropped, dropped)
        records = self._exchange(planned, seed, stop=watch)
        figures = figures_of(records, offered_rate=rate, slo=slo, warm_up=dropped)
        return msgspec.structs.replace(
            figures, peak_memory_bytes=process.peak_bytes, device_memory_bytes=process.peak_device_bytes
        )

    def _exchange(self, planned: Any, seed: int, **how: Any) -> list[Record]:
        """Send requests to the running server.

        Raises:
            TrialError: the server died meanwhile, or the time is over.
        """
        process = self._process
        assert process is not None, "callers have started it"
        endpoint = how.pop("endpoint", None) or self.spec.endpoint(self.port)
        records = load_over_http(
            endpoint, planned, seed=seed, watch=lambda: process.look() and not self._is_late(), **how
        )
        if not process.alive:
            failure = process.death("load")
            self._process, self._running, self._is_fresh = None, "", False
            raise failure
        self._check_time("load")
        return records

    def _ask(self, seed: int) -> list[str]:
        """The server's answers to the prompts of the check, one after the other.

        Raises:
            TrialError: `wrong`: one is no answer; `hung`: one did not come.
        """
        endpoint = self.spec.endpoint(self.port)
        endpoint = msgspec.structs.replace(endpoint, body={**endpoint.body, "temperature": 0})
        texts = []
        for planned in self.spec.check_arrivals():
            at_once = msgspec.structs.replace(planned, seconds=0.0)
            (record,) = self._exchange([at_once], seed, endpoint=endpoint, keep_text=True)
            if not record.answered:
                verdict = Verdict.HUNG if record.failure.startswith("no answer within") else Verdict.WRONG
                raise TrialError(verdict, f"check: {record.failure}")
            texts.append(record.text)
        return texts

    def _failed(self, figures: LoadFigures) -> TrialError:
        """What requests that failed make of a trial."""
        reason, count = max(figures.failures.items(), key=lambda item: item[1], default=("no request", 0))
        verdict = Verdict.HUNG if reason.startswith("no answer within") else Verdict.WRONG
        told = f"{figures.failed} of {figures.requests} requests failed, {count} of them: {reason}"
        return TrialError(verdict, f"load: {told}")

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _check_time(self, stage: str) -> None:
        if self._is_late():
            with suppress(Exception):
                self.kill()
            raise TrialError(Verdict.PREEMPTED, f"{stage}: no time was left")


def _agreement(first: str, second: str) -> float:
    """Share of the longer text up to which both are the same, 0 to 1."""
    longest = max(len(first), len(second))
    if not longest:
        return 1.0
    same = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return (min(len(first), len(second)) if same is None else same) / longest
