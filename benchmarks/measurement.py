"""How often the interleaved decision picks the truly faster of two configurations, against naive timing.

    python benchmarks/measurement.py [--runs N] [--rounds N] [--sigma S] [--seed N]
    python benchmarks/measurement.py --real

Simulated machines, so that the truth is known: each sample is the configuration's latency times a drift
common to both, times lognormal noise, and a few samples are outliers that took much longer. The challenger is
faster by 0, 1, 2 or 5 %. Both methods see the same machine:

- interleaved: `autotune.measure.comparison`, which may stop before the most rounds;
- one after the other: all samples of one, then all of the other, one per round that the first method might
  have run; the lower median wins, if by the margin.

Exit status 1 when the requirement is missed: at 2 % apart under 3 % of linear drift right in at least 98 %,
never wrong under any drift, and at 0 % no more false promotions than the stated error probability allows.
(At 1 % apart and a margin of 1 % a tie is what the margin asks for; the last lines do without a margin.)

With --real, kernels are timed on this machine instead: matrix-vector products, one of which has a known share
of rows less. That table is for looking at: what comes out depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.measure.comparison import Outcome, Rules, compare

GAPS = (0.0, 0.01, 0.02, 0.05)
DRIFT = 0.03
OUTLIERS, OUTLIER_MEAN = 0.03, 0.3
"""Share of samples that a neighbour or an interrupt hits, and by how much they take longer on average."""
REQUIRED_RIGHT = 0.98

Drift = Callable[[float], float]
Sample = Callable[[int], float]


def _drifts(generator: np.random.Generator) -> dict[str, Drift]:
    """Slow-down at a share of the run; sign, moment and phase are drawn anew for each run."""
    sign = generator.choice((-1, 1))
    at, phase, periods = (
        generator.uniform(0.2, 0.8),
        generator.uniform(0, 2 * math.pi),
        generator.uniform(1, 60),
    )
    return {
        "none": lambda _: 1.0,
        "linear": lambda share: 1 + sign * DRIFT * share,
        "periodic": lambda share: 1 + DRIFT / 2 * math.sin(2 * math.pi * periods * share + phase),
        "step": lambda share: 1 + sign * DRIFT * (share > at),
    }


class Tally(NamedTuple):
    """Shares of runs."""

    right: float
    tie: float
    wrong: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], gap: float) -> Tally:
        """At no difference at all a tie is right, and a challenger found faster a false promotion."""
        share = {outcome: count / len(outcomes) for outcome, count in Counter(outcomes).items()}
        faster, tie, slower = (share.get(o, 0.0) for o in (Outcome.FASTER, Outcome.TIE, Outcome.SLOWER))
        return cls(faster, tie, slower) if gap else cls(tie + slower, 0.0, faster)

    def __str__(self) -> str:
        return f"{self.right:7.1%} {self.tie:7.1%} {self.wrong:7.1%}"


class Machine:
    """A simulated machine that runs one comparison.

    Args:
        gap: by what share the challenger, contender 1, is faster.
        drift: slow-down at a share of the run.
        samples: of a whole run.
    """

    def __init__(self, gap: float, drift: str, samples: int, sigma: float, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.drift = _drifts(self.generator)[drift]
        self.latencies = (1e6 * (1 + gap), 1e6)
        self.samples, self.sigma, self.taken = samples, sigma, 0

    def sample(self, i: int) -> float:
        latency = self.latencies[i] * self.drift(self.taken / self.samples)
        self.taken += 1
        latency *= math.exp(self.sigma * self.generator.standard_normal())
        if self.generator.random() < OUTLIERS:
            latency *= 1 + self.generator.exponential(OUTLIER_MEAN)
        return latency


def interleaved(sample: Sample, rules: Rules, seed: int) -> tuple[Outcome, int]:
    """The decision and the rounds it took."""
    comparison = compare(sample, ["baseline", "challenger"], baseline="baseline", rules=rules, seed=seed)
    return comparison.outcome("challenger"), comparison.proofs["challenger"].rounds


def one_after_the_other(sample: Sample, samples_each: int, margin: float, seed: int) -> Outcome:
    """The lower median wins, if by the margin; who goes first is drawn."""
    medians = {}
    for i in np.random.default_rng(seed).permutation(2):
        medians[int(i)] = float(np.median([sample(int(i)) for _ in range(samples_each)]))
    ratio = medians[0] / medians[1]
    if ratio > 1 + margin:
        return Outcome.FASTER
    return Outcome.SLOWER if ratio < 1 / (1 + margin) else Outcome.TIE


def simulate(args: argparse.Namespace) -> bool:
    """Print the table; whether the requirement is met."""
    met = True
    print(
        f"{args.runs} runs a line, at most {args.rounds} rounds, noise {args.sigma:.1%}, "
        f"{OUTLIERS:.0%} outliers, drift {DRIFT:.0%} over the run"
    )
    _header()
    for margin, gaps in ((0.01, GAPS), (0.0, GAPS[:2])):
        for gap in gaps:
            for drift in ("none", "linear", "periodic", "step"):
                runs = [_run(margin, gap, drift, args, args.seed + run) for run in range(args.runs)]
                ours, rounds, naive = zip(*runs, strict=True)
                tally = Tally.of(ours, gap)
                _line(margin, gap, drift, tally, Tally.of(naive, gap), float(np.median(rounds)))
                met &= _meets(margin, gap, drift, tally, args)
    print("requirement met" if met else "REQUIREMENT MISSED")
    return met


def _run(
    margin: float, gap: float, drift: str, args: argparse.Namespace, seed: int
) -> tuple[Outcome, int, Outcome]:
    """Both methods on the same machine: our outcome, our rounds, the naive outcome."""
    rules = Rules(math.inf, margin, args.confidence, args.rounds)
    machines = [Machine(gap, drift, 2 * args.rounds, args.sigma, seed) for _ in range(2)]
    outcome, rounds = interleaved(machines[0].sample, rules, seed)
    return outcome, rounds, one_after_the_other(machines[1].sample, args.rounds, margin, seed)


def _meets(margin: float, gap: float, drift: str, tally: Tally, args: argparse.Namespace) -> bool:
    # Half of the error probability lies on either side; three standard deviations for the luck of the runs.
    alpha = (1 - args.confidence) / 2
    allowed = alpha + 3 * math.sqrt(alpha * (1 - alpha) / args.runs)
    enough = tally.right >= REQUIRED_RIGHT if (margin, gap, drift) == (0.01, 0.02, "linear") else True
    return enough and tally.wrong <= (allowed if gap == 0 or margin == 0 else 0.0)


def real(args: argparse.Namespace) -> None:
    """The same on this machine: products with `rows` and with a share of rows less."""
    import torch

    from autotune.fingerprint.cpu import cpu_facts
    from autotune.measure.timers import timer_for

    torch.set_grad_enabled(False)
    timer = timer_for("cpu", l3_bytes=int(cpu_facts()["l3_bytes"]))
    rows, columns = 4096, 2048
    _header()
    for gap in GAPS:
        ours, naive, rounds = [], [], []
        for run in range(args.real_runs):
            x = torch.randn(columns)
            # Allocated anew for every run: where its pages lie is part of a configuration's luck.
            weights = [torch.randn(round(rows * share), columns) for share in (1 + gap, 1.0)]

            def sample(i: int, weights: list[torch.Tensor] = weights, x: torch.Tensor = x) -> float:
                return timer.sample(lambda: weights[i] @ x)

            for i in (0, 1):
                sample(i)
            outcome, count = interleaved(sample, Rules(args.real_seconds, 0.01, args.confidence), run)
            ours.append(outcome)
            rounds.append(count)
            naive.append(one_after_the_other(sample, max(count, 10), 0.01, run))
        _line(0.01, gap, "real", Tally.of(ours, gap), Tally.of(naive, gap), float(np.median(rounds)))


def _header() -> None:
    print(f"\n{'':24}{'interleaved':^32}  {'one after the other':^23}")
    print(
        f"{'margin':>6} {'apart':>6} {'drift':>9} {'right':>8} {'tie':>7} {'wrong':>7} {'rounds':>7} "
        f"{'right':>9} {'tie':>7} {'wrong':>7}"
    )


def _line(margin: float, gap: float, drift: str, ours: Tally, naive: Tally, rounds: float) -> None:
    print(f"{margin:6.0%} {gap:6.0%} {drift:>9}  {ours} {rounds:7.0f}   {naive}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="simulated comparisons per line")
    parser.add_argument(
        "--rounds", type=int, default=400, help="most rounds; samples each of the other method"
    )
    parser.add_argument("--sigma", type=float, default=0.015, help="noise of one sample")
    parser.add_argument("--confidence", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="time real kernels on this machine")
    parser.add_argument("--real-runs", type=int, default=10)
    parser.add_argument("--real-seconds", type=float, default=5.0, help="budget of one comparison")
    args = parser.parse_args()
    if args.real:
        real(args)
        return 0
    return 0 if simulate(args) else 1


if __name__ == "__main__":
    sys.exit(main())
