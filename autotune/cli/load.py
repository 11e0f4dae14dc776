"""`autotune load`: open-loop load on a server or on a modelled engine, at rates or up to the largest one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.measure.load.arrivals import Arrival, Lengths
    from autotune.measure.load.capacity import Capacity
    from autotune.measure.load.figures import LoadFigures
    from autotune.measure.load.slo import Slo

    Arrivals = Callable[[float], Sequence[Arrival]]
    Loads = Callable[[float], LoadFigures]

TERMS = {
    "step": "step_seconds",
    "prefill": "prefill_seconds",
    "decode": "decode_seconds",
    "context": "context_seconds",
}


@dataclass(frozen=True)
class Wish:
    """What to load with, and how.

    Attributes:
        rates: requests per second; None for the spec's, the trace's own, or 1.
        arrivals: at a rate; None for the spec's.
        slo: what makes a request a good one; None for the spec's.
        warm_up: first requests that do not count; None for a tenth.
        seed: of arrivals and prompts.
    """

    rates: tuple[float, ...] | None
    arrivals: Arrivals | None
    slo: Slo | None
    warm_up: int | None
    seed: int


def load(
    spec: options.Spec = None,
    variables: options.Variables = None,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Start the spec's server as it was tuned, not untuned.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Endpoint that runs, e.g. http://127.0.0.1:8000/v1/completions."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="As the server at --url calls it.")] = "",
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="TERM=TIME,...",
            help="A modelled engine: seconds of a step, and more for each token read (prefill), sequence "
            "written to (decode) and token in its cache (context), e.g. step=5ms,prefill=20us,decode=0.1ms.",
        ),
    ] = None,
    max_num_seqs: Annotated[
        str, typer.Option("--max-num-seqs", help="Of the modelled engine; several to choose from.")
    ] = "256",
    max_num_batched_tokens: Annotated[
        int, typer.Option("--max-num-batched-tokens", min=1, help="Of a step of the modelled engine.")
    ] = 8192,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Requests per second, e.g. 4 or 1,2,4,8.")
    ] = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="Find the largest rate that keeps the limits, from --rate on.")
    ] = False,
    requests: Annotated[int | None, typer.Option("--requests", min=20, help="How many; 1000.")] = None,
    warm_up: Annotated[
        int | None, typer.Option("--warm-up", min=0, help="First ones that do not count; a tenth.")
    ] = None,
    burstiness: Annotated[
        float | None, typer.Option("--burstiness", help="1 is Poisson, below it come bursts.")
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option("--prompt-tokens", help="Of a request, e.g. 128 or 64-256; 128.")
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option("--output-tokens", help="Of an answer, e.g. 64 or 16-128; 64.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="CSV with arrival, prompt_tokens, output_tokens, in place of the above."
        ),
    ] = None,
    ttft: Annotated[
        str | None, typer.Option("--ttft", help="Limit on time to first token, e.g. 500ms.")
    ] = None,
    tpot: Annotated[str | None, typer.Option("--tpot", help="Limit on time per output token.")] = None,
    e2e: Annotated[str | None, typer.Option("--e2e", help="Limit on the time to the last token.")] = None,
    percentile: Annotated[
        float | None, typer.Option("--percentile", help="Share of requests that must keep the limits; 99.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of arrivals and prompts.")] = 0,
    json: options.Json = False,
) -> int:
    """Load a server, or a modelled engine, with requests that come whether others were answered or not.

    Prints latency against rate: queueing, time to first token, time per token and their tails, goodput, and
    whether the load was more than it can carry. Exits 1 where nothing was answered.
    """
    if sum(given is not None for given in (spec, url, engine)) != 1:
        raise UsageError("give one of --spec, --url and --engine: what to load")
    if tuned and spec is None:
        raise UsageError("--tuned is of a server's spec: give --spec")
    lengths = _lengths(prompt_tokens, output_tokens)
    shaped = [requests, burstiness, prompt_tokens, output_tokens, trace]
    arrivals = _arrivals(requests or 1000, lengths, burstiness, trace, seed)
    given = spec is None or any(one is not None for one in shaped)
    wish = Wish(
        _rates(rate) or _rate_of(trace),
        arrivals if given else None,
        _slo(ttft, tpot, e2e, percentile),
        warm_up,
        seed,
    )
    if engine is not None:
        limits = options.whole_numbers(max_num_seqs, "--max-num-seqs")
        return _load_engine(engine, limits, max_num_batched_tokens, wish, largest, json)
    if spec is not None:
        return _load_spec(spec, options.variables(variables), tuned, wish, largest, json)
    return _load_url(str(url), model, wish, largest, json)


def _load_engine(text: str, places: Sequence[int], tokens: int, wish: Wish, largest: bool, json: bool) -> int:
    """A modelled engine, with each of several batches where the largest rate is sought."""
    from autotune.measure.load.batching import BatchLimits, ModelledEngine
    from autotune.measure.load.capacity import engine_load, operating_point
    from autotune.measure.load.slo import Slo

    modelled = ModelledEngine(**_terms(text))
    arrivals = wish.arrivals
    assert arrivals is not None, "given for all but a spec"
    try:
        limits = [BatchLimits(count, tokens) for count in places]
    except ValueError as error:
        option, _, wrong = str(error).partition(":")
        raise UsageError(f"--{option.replace('_', '-')}:{wrong}") from None
    if not largest:
        if len(limits) > 1:
            raise UsageError("several --max-num-seqs are chosen from with --largest alone")
        watched = engine_load(modelled, limits[0], arrivals, wish.slo or Slo(), warm_up=wish.warm_up)
        return _tell_rates([watched(rate) for rate in wish.rates or (1.0,)], json)
    slo = _needed(wish.slo)
    start = (wish.rates or (1.0,))[0]
    points = operating_point(modelled, limits, arrivals, slo, start, warm_up=wish.warm_up)
    return _tell_largest(
        [(f"{point.limits.max_num_seqs} sequences", point.capacity) for point in points], slo, json
    )


def _load_url(url: str, model: str, wish: Wish, largest: bool, json: bool) -> int:
    """A server that runs."""
    from urllib.parse import urlsplit

    from autotune.measure.load.capacity import largest_rate
    from autotune.measure.load.http_client import Endpoint
    from autotune.measure.load.slo import Slo

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.endswith("/completions"):
        raise UsageError(f"--url {url!r}: expected http://HOST:PORT/v1/completions or .../chat/completions")
    assert wish.arrivals is not None, "given for all but a spec"
    endpoint = Endpoint(url, model)
    slo = _needed(wish.slo) if largest else wish.slo or Slo()
    loaded = _over_http(lambda: endpoint, wish.arrivals, slo, wish, ends_early=largest)
    if largest:
        found = largest_rate(loaded, (wish.rates or (1.0,))[0])
        return _tell_largest([("", found)], slo, json)
    return _tell_rates([loaded(rate) for rate in wish.rates or (1.0,)], json)


def _load_spec(
    name: str, variables: dict[str, str], tuned: bool, wish: Wish, largest: bool, json: bool
) -> int:
    """A server that a spec starts, in one start of it."""
    from autotune.errors import TrialError
    from autotune.measure.load.capacity import largest_rate
    from autotune.server.bench import ServerBench
    from autotune.server.spec import load_spec
    from autotune.space.searchspace import SearchSpace

    spec = load_spec(name, variables)
    slo = wish.slo or spec.sections.slo
    if largest:
        slo = _needed(slo)
    rates = wish.rates or (spec.sections.load.rate,)
    arrivals = wish.arrivals or (lambda rate: spec.arrivals(rate, wish.seed))
    if tuned:
        configuration = _tuned(spec)
    else:
        configuration = SearchSpace.build(spec.declaration, spec.problem, {"kind": "cpu"}).baseline
    with ServerBench(spec, "throughput") as bench:
        try:
            bench.build("loaded", configuration)
            loaded = _over_http(bench.endpoint, arrivals, slo, wish, largest, bench.look)
            if largest:
                return _tell_largest([("", largest_rate(loaded, rates[0]))], slo, json)
            return _tell_rates([loaded(rate) for rate in rates], json)
        except TrialError as failure:
            raise UsageError(f"{spec.path}: {failure}") from None


def _over_http(
    endpoint: Callable[[], Any],
    arrivals: Arrivals,
    slo: Slo,
    wish: Wish,
    ends_early: bool,
    look: Callable[[], dict[str, int | None]] = dict,
) -> Loads:
    """Loads over HTTP; each ends early once it cannot be kept, where asked for.

    Args:
        endpoint: where to.
        arrivals: at a rate.
        slo: what makes a request a good one.
        wish: warm-up and seed.
        ends_early: whether a load ends once it cannot keep the limits, or is over-saturated.
        look: looks after the server: more figures, or an error where it died.
    """
    import msgspec

    from autotune.measure.load.figures import figures_of, warm_up_of
    from autotune.measure.load.http_client import load_over_http
    from autotune.measure.load.watch import LoadWatch

    def loaded(rate: float) -> LoadFigures:
        planned = arrivals(rate)
        dropped = warm_up_of(len(planned), wish.warm_up)
        stop = LoadWatch(slo, len(planned) - dropped, dropped) if ends_early else lambda _: False
        records = load_over_http(
            endpoint(), planned, seed=wish.seed, stop=stop, watch=lambda: look() is not None
        )
        figures = figures_of(records, offered_rate=rate, slo=slo, warm_up=dropped)
        return msgspec.structs.replace(figures, **look())

    return loaded


def _tuned(spec: Any) -> dict[str, Any]:
    """The winner of a spec, as look-ups give it."""
    from autotune import get_best_config

    found = get_best_config(spec.problem.workload, objective="throughput", **spec.problem.dimensions)
    if not found:
        raise UsageError(
            "--tuned: nothing is decided of this spec with its load; first: autotune tune server --spec "
            f"{spec.path}"
        )
    return dict(found)


def _tell_rates(loads: Sequence[LoadFigures], json: bool) -> int:
    from autotune.cli import output
    from autotune.cli.load_tables import load_table, spread_table

    plain = [options.as_plain(figures) for figures in loads]
    if json:
        output.print_json(plain)
    else:
        output.console.print(load_table(plain))
        for figures in plain if len(plain) == 1 else ():
            output.console.print(spread_table(figures))
        for figures in plain:
            at = "" if len(plain) == 1 else f"at {figures['offered_rate']:g}/s: "
            for doubt in figures["doubts"]:
                output.console.print(output.plain(f"{at}{doubt}"), soft_wrap=True)
    return 0 if any(figures.answered for figures in loads) else 1


def _tell_largest(found: Sequence[tuple[str, Capacity]], slo: Slo, json: bool) -> int:
    from autotune.cli import output
    from autotune.cli.load_tables import rate_table

    if json:
        output.print_json(
            [{"batch": name, **options.as_plain(each), "slo": options.as_plain(slo)} for name, each in found]
        )
    else:
        for name, each in found:
            told = (
                f"{each.rate:.4g} requests/s keep {slo}" if each.rate else f"no rate was shown to keep {slo}"
            )
            output.console.print(f"{name + ': ' if name else ''}{told}", soft_wrap=True)
        name, best = found[0]
        output.console.print(rate_table([options.as_plain(rung.point) for rung in best.rungs]))
        refused = next((rung for rung in best.rungs if not rung.kept), None)
        if refused is not None:
            output.console.print(output.plain(f"at {refused.rate:.4g}/s: {refused.why}"), soft_wrap=True)
    return 0 if found[0][1].rate else 1


def _needed(slo: Slo | None) -> Slo:
    if slo is None or not slo.limits:
        raise UsageError("--largest needs a limit to keep; give --ttft, --tpot or --e2e")
    return slo


def _slo(ttft: str | None, tpot: str | None, e2e: str | None, percentile: float | None) -> Slo | None:
    from autotune.measure.load.slo import Slo

    limits = {
        f"{name}_ms": 1e3 * options.seconds(text, f"--{name}")
        for name, text in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e))
        if text is not None
    }
    if not limits and percentile is None:
        return None
    try:
        return Slo(**limits, percentile=99.0 if percentile is None else percentile)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _rates(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        rates = tuple(float(piece) for piece in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < 1e7 for rate in rates):
        raise UsageError(f"--rate {text!r} is not a list of requests per second; write e.g. 4 or 1,2,4,8")
    return rates


def _rate_of(trace: Path | None) -> tuple[float, ...] | None:
    """The rate that a trace has by itself."""
    from autotune.measure.load.arrivals import rate_of, read_trace

    return None if trace is None else (rate_of(read_trace(trace)),)


def _lengths(prompt: str | None, output: str | None) -> Lengths:
    from autotune.measure.load.arrivals import Lengths

    bounds = []
    for option, text in (("--prompt-tokens", prompt or "128"), ("--output-tokens", output or "64")):
        low, _, high = text.partition("-")
        try:
            bounds.append((int(low), int(high or low)))
        except ValueError:
            raise UsageError(
                f"{option} {text!r} is not a number of tokens; write e.g. 128 or 64-256"
            ) from None
    try:
        return Lengths(*bounds)
    except ValueError as error:
        raise UsageError(f"--{str(error).replace(' tokens', '-tokens')}") from None


def _arrivals(
    requests: int, lengths: Lengths, burstiness: float | None, trace: Path | None, seed: int
) -> Arrivals:
    from autotune.measure.load.arrivals import read_trace
    from autotune.measure.load.capacity import poisson, traced

    if trace is not None:
        return traced(read_trace(trace))
    shape = 1.0 if burstiness is None else burstiness
    if not shape > 0:
        raise UsageError(f"--burstiness {shape:g} is not a number above 0")
    return poisson(requests, lengths, seed, shape)


def _terms(text: str) -> dict[str, float]:
    from autotune.errors import UnknownNameError

    terms = {}
    for piece in text.split(","):
        name, equals, value = piece.strip().partition("=")
        if not equals:
            raise UsageError(f"--engine {piece!r} is not TERM=TIME; write e.g. step=5ms,prefill=20us")
        if name not in TERMS:
            raise UnknownNameError("term of --engine", name, TERMS)
        terms[TERMS[name]] = options.seconds(value, f"--engine {name}")
    return terms
