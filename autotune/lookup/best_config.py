"""BestConfig: a configuration as a read-only mapping, with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from autotune.space.problem import Problem

_MEANING = {
    "exact": "tuned for this very problem, on this device and software stack",
    "fleet": "tuned for this very problem on another node, equal in device and stack; not yet verified here",
    "drifted": "tuned for this problem on this device, under another software stack",
    "nearest": "tuned on this device for the nearest problem of another size",
    "similar": "tuned for this problem on another device of the family",
    "default": "nothing better is known: what the framework does untuned",
}
_PROVENANCE = (
    "match",
    "workload",
    "problem",
    "objective",
    "tuned_for",
    "device",
    "stack",
    "generation",
    "source",
    "latency_ns",
    "p99_ns",
    "error",
    "memory_bytes",
    "baseline_ns",
    "speedup",
    "speedup_interval",
    "is_baseline",
    "limit_share",
    "study",
    "trial",
    "decided_at",
    "origin",
)


class BestConfig(Mapping[str, object]):
    """A configuration as a read-only mapping, e.g. `{"implementation": "torch"}`, with its provenance.

    It equals a dict of the same items, can be pickled, and cannot be changed: one object serves many callers.
    Under `match="default"` the figures are None.

    Attributes:
        match: `exact`, `fleet` (tuned on another node, equal in device and stack), `drifted` (tuned under
            another stack), `nearest` (at another size), `similar` (on another device of the family) or
            `default` (the declared baseline).
        workload: the workload asked for.
        problem: the problem asked for.
        objective: what it was decided for, with its own limit on the latency, e.g. `throughput:4ms`.
        tuned_for: the problem it was tuned for; another than `problem` under `nearest`.
        device: digest of the device it was tuned on, of the one asked for under `default`; None if unknown.
        stack: digest of the software stack it was tuned under; None under `default`.
        generation: number of the snapshot that was read; None if none could be.
        source: path of the snapshot that was read; None if none could be.
        latency_ns: median latency, re-measured after the decision.
        p99_ns: 99th percentile of the latency.
        error: relative error against a higher-precision reference.
        memory_bytes: memory that the built configuration holds.
        baseline_ns: the baseline's latency in the comparison that decided: its median; for `tail` its 99th
            percentile, for `throughput` its mean.
        speedup: over the baseline, from that comparison's pairs; for `energy` by how much less a call takes.
        speedup_interval: its confidence interval, (low, high).
        is_baseline: whether this is the baseline, kept because nothing beat it or nothing better is known.
        limit_share: share of the measured ceiling (roofline) that it reaches, 0 to 1.
        study: number of the study that found it.
        trial: number of the trial within the study; None for the baseline.
        decided_at: when it was decided, in seconds since the epoch.
        origin: digest of the fleet's entry that it was taken from, unverified on this node; None if it was
            decided here.
    """

    __slots__ = ("_configuration", *_PROVENANCE)

    match: str
    workload: str
    problem: Problem
    objective: str
    tuned_for: Problem
    device: str | None
    stack: str | None
    generation: int | None
    source: str | None
    latency_ns: float | None
    p99_ns: float | None
    error: float | None
    memory_bytes: int | None
    baseline_ns: float | None
    speedup: float | None
    speedup_interval: tuple[float, float] | None
    is_baseline: bool
    limit_share: float | None
    study: int | None
    trial: int | None
    decided_at: float | None
    origin: str | None
    _configuration: dict[str, Any]

    def __init__(self, configuration: Mapping[str, Any], **provenance: Any) -> None:
        object.__setattr__(self, "_configuration", dict(configuration))
        for name in _PROVENANCE:
            object.__setattr__(self, name, provenance.get(name))

    def __getitem__(self, name: str) -> Any:
        return self._configuration[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._configuration)

    def __len__(self) -> int:
        return len(self._configuration)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a BestConfig cannot be changed: {name!r}; dict(best) gives a copy that can")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a BestConfig cannot be changed: {name!r}; dict(best) gives a copy that can")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._configuration, self.provenance())

    def __repr__(self) -> str:
        gain = f", {self.speedup:.2f}x over the baseline" if self.speedup is not None else ""
        return f"<BestConfig {self.problem}: {self._settings()} ({self.match}{gain})>"

    def provenance(self) -> dict[str, Any]:
        """Every attribute by its name."""
        return {name: getattr(self, name) for name in _PROVENANCE}

    def explain(self) -> str:
        """Where this configuration comes from, in a few lines for people."""
        lines = [str(self.problem), f"  configuration  {self._settings() or 'none'}"]
        lines.append(f"  match          {self.match}: {_MEANING.get(self.match, '')}")
        if self.objective != "latency":
            lines.append(f"  objective      {self._objective()}")
        if self.tuned_for != self.problem:
            lines.append(f"  tuned for      {self.tuned_for}")
        if self.latency_ns is not None:
            lines.append(f"  latency        {self._latency()}")
        if self.error is not None:
            lines.append(f"  error          {self.error:.3g}")
        if self.memory_bytes is not None:
            lines.append(f"  memory         {self.memory_bytes / 2**20:.1f} MiB")
        if self.decided_at is not None:
            lines.append(f"  decided        {self._decision()}")
        if self.origin is not None:
            lines.append(f"  proven by      another node of the fleet, not here: entry {self.origin[:12]}")
        lines.append(f"  device, stack  {self.device or 'unknown'}, {self.stack or 'any'}")
        lines.append(f"  generation     {self._generation()}")
        return "\n".join(lines)

    def _settings(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._configuration.items())

    def _objective(self) -> str:
        base, _, limit = self.objective.partition(":")
        return f"{base}, where p99 is at most {limit}" if limit else base

    def _latency(self) -> str:
        text = _duration(self.latency_ns)
        if self.p99_ns is not None:
            text += f", p99 {_duration(self.p99_ns)}"
        if self.is_baseline:
            return f"{text}; this is the baseline: nothing tried was better"
        energy = self.objective == "energy"
        if self.speedup is not None:
            text += f"; {self.speedup:.2f}x {'less energy than' if energy else 'over'} the baseline"
        if self.speedup_interval is not None:
            text += " ({:.2f} to {:.2f})".format(*self.speedup_interval)
        if self.baseline_ns is not None and not energy:
            text += f" of {_duration(self.baseline_ns)}"
        return text

    def _decision(self) -> str:
        from time import gmtime, strftime

        when = strftime("%Y-%m-%d %H:%M UTC", gmtime(self.decided_at))
        study = "" if self.study is None else f", study {self.study}"
        return f"{when}{study}" + ("" if self.trial is None else f", trial {self.trial}")

    def _generation(self) -> str:
        if self.source is None:
            return "none: no snapshot could be read"
        return f"{self.generation} of {self.source}"


def _restore(configuration: dict[str, Any], provenance: dict[str, Any]) -> BestConfig:
    return BestConfig(configuration, **provenance)


def _duration(ns: float | None) -> str:
    if ns is None:
        return "unknown"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"
