"""What looking a configuration up costs: in a fresh process, and once the process is warm.

Beside `get_best_config` stand a plain dictionary (the floor), a JSON file per process with the nearest key
taken, which is how vLLM reads its MoE configurations, and SQLite opened for each look-up. All run in one go,
interleaved in random order, on a temporary snapshot of 5,000 winners. Needs the base install alone.

    python benchmarks/lookup.py [--repeats 40] [--json]

Exits 1 when a limit is missed: 15 ms above a bare interpreter for import and first look-up, 1.5 us for the
median hot look-up, and no module loaded from outside the standard library and `autotune`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import autotune  # noqa: E402
from autotune import paths  # noqa: E402
from autotune.lookup.published import APPLICATION_ID, FORMAT  # noqa: E402
from autotune.space.declared import declared  # noqa: E402
from autotune.space.problem import Problem  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

INTERPRETER = [sys.executable, "-S", "-c"]
"""Without the hooks that installed packages run at every start: those of an editable install take 40 ms and
load half of what a look-up would. `site`, and the folder it would add, are there as in any interpreter."""
BARE = "import site\n"
MOST_FRESH_MS = 15.0
MOST_HOT_US = 1.5
WORKLOAD = "linear"
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
ASKED = {"m": 16, "n": 7168, "k": 2048}

Report = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40, help="fresh processes of each kind (default 40)")
    parser.add_argument("--rows", type=int, default=5_000, help="winners in the snapshot (default 5000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOTUNE_STATE_DIR"] = folder
        os.environ.pop("AUTOTUNE_GENERATION", None)
        rows = publish(Path(folder), options.rows)
        report: Report = {
            "machine": machine(),
            "rows": rows,
            "fresh": fresh(Path(folder), options.repeats),
            "hot": hot(Path(folder)),
            "modules": loaded_modules(),
        }
    missed = report["missed"] = limits_missed(report)
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 1 if missed else 0


def machine() -> Report:
    """What the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
    }


def publish(folder: Path, rows: int) -> int:
    """Write a snapshot of winners for this machine, and the same for one layer as a JSON file like vLLM's."""
    configuration = {"implementation": "onednn_packed", "compute_dtype": "bfloat16", "threads": 2}
    dimensions = declared(WORKLOAD).dimensions
    assert dimensions, f"search_spaces/{WORKLOAD}.toml declares the dimensions"
    layers = [(ASKED["n"] + 64 * i, ASKED["k"]) for i in range(-(-rows // len(SIZES)))]
    problems = [Problem.of(WORKLOAD, dimensions, {"m": m, "n": n, "k": k}) for n, k in layers for m in SIZES][
        :rows
    ]
    device, stack = digests()
    with closing(sqlite3.connect(folder / "best.db")) as connection:
        connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}")
        connection.executescript(Path(paths.data_dir("db"), "snapshot.sql").read_text())
        connection.execute("INSERT INTO meta VALUES ('generation', '1')")
        connection.execute("INSERT INTO device VALUES (?, 'cpu', '', '', '{}', 0)", (device,))
        connection.executemany(
            f"INSERT INTO choice VALUES ({', '.join('?' * 24)})",
            [
                (
                    *(WORKLOAD, problem.key, "latency", device, stack, 0),
                    *(problem.neighbourhood, json.dumps(problem.dimensions), json.dumps(configuration)),
                    *(1e6, 1.1e6, 1e-3, 0, 2e6, 1e-3, 2.0, 1.9, 2.1, 0, 0.5, 1, 1, 1.7e9, None),
                )
                for problem in problems
            ],
        )
        connection.commit()
    blocks = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 2, "num_warps": 4}
    (folder / "layer.json").write_text(json.dumps({str(m): blocks for m in SIZES}, indent=2))
    return len(problems)


def digests() -> list[str]:
    """Device and stack digest as the measured processes see them."""
    return output_of(
        "from autotune.fingerprint import cpu, stack; print(cpu.cpu_digest(), stack.stack_digest('cpu'))"
    ).split()


def asked_key() -> str:
    dimensions = declared(WORKLOAD).dimensions
    assert dimensions
    return Problem.of(WORKLOAD, dimensions, ASKED).key


def fresh(folder: Path, repeats: int) -> Report:
    """Import and first look-up in a new process, above a bare interpreter in the same round."""
    arguments = ", ".join(f"{name}={value}" for name, value in ASKED.items())
    query = f"SELECT configuration FROM choice WHERE workload = '{WORKLOAD}' AND problem = '{asked_key()}'"
    programs = {
        "bare interpreter": "",
        "get_best_config": (
            f"import autotune; best = autotune.get_best_config({WORKLOAD!r}, {arguments}); "
            "assert best.match == 'exact'"
        ),
        "import of it alone": "from autotune import get_best_config",
        "JSON file, nearest key": (
            f"import json; blocks = json.load(open({str(folder / 'layer.json')!r})); "
            "blocks[min(blocks, key=lambda m: abs(int(m) - 16))]"
        ),
        "SQLite and json": (
            f"import json, sqlite3; json.loads(sqlite3.connect({str(folder / 'best.db')!r})"
            f".execute({query!r}).fetchone()[0])"
        ),
    }
    for program in programs.values():  # bytecode and files are cached before the first measured round
        run(program)
    rounds = []
    for _ in range(repeats):
        order = random.sample(sorted(programs), len(programs))
        rounds.append({name: run(programs[name]) for name in order})
    return {name: beside_bare(rounds, name) for name in programs}


def beside_bare(rounds: list[dict[str, tuple[float, float]]], name: str) -> Report:
    """A program's wall-clock and CPU time beside those of the bare interpreter in the same rounds."""
    pairs = [(each[name], each["bare interpreter"]) for each in rounds]
    return {
        "ms": statistics.median(wall for (wall, _), _ in pairs),
        "above_bare_ms": median_with_interval([wall - bare for (wall, _), (bare, _) in pairs]),
        "cpu_above_bare_ms": median_with_interval([cpu - bare for (_, cpu), (_, bare) in pairs]),
        "ratio": median_with_interval([wall / bare for (wall, _), (bare, _) in pairs]),
    }


def child_environment() -> dict[str, str]:
    # With bytecode written, as it is when a package is installed.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])}


def output_of(program: str) -> str:
    command = [*INTERPRETER, BARE + program]
    return subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=True).stdout


def run(program: str) -> tuple[float, float]:
    """Milliseconds from start to exit of a new interpreter with a program: wall-clock and CPU time."""
    environment = child_environment()
    started = perf_counter_ns()
    child = os.posix_spawn(sys.executable, [*INTERPRETER, BARE + program], environment)
    _, status, usage = os.wait4(child, 0)
    elapsed = perf_counter_ns() - started
    if status:
        raise SystemExit(f"a measured program failed: {program}")
    return elapsed / 1e6, (usage.ru_utime + usage.ru_stime) * 1e3


def hot(folder: Path) -> Report:
    """Look-ups in a warm process: per second, and percentiles of single calls."""
    contenders: dict[str, Callable[[], object]] = {
        "get_best_config": lambda: autotune.get_best_config(WORKLOAD, m=16, n=7168, k=2048),
        "get_best_config, max_error given": lambda: autotune.get_best_config(
            WORKLOAD, m=16, n=7168, k=2048, max_error=0.01
        ),
        "plain dict": dict_look_up(),
        "JSON file cached, nearest key": json_look_up(folder / "layer.json"),
        "SQLite opened each time": sqlite_look_up(folder / "best.db"),
    }
    samples: dict[str, list[int]] = {name: [] for name in ("nothing", *contenders)}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(20):
        samples["nothing"] += time_calls(lambda: None, 1_000)
        for name in random.sample(sorted(contenders), len(contenders)):
            samples[name] += time_calls(contenders[name], 200 if "SQLite" in name else 5_000)
            rates[name].append(calls_per_second(contenders[name], 200 if "SQLite" in name else 5_000))
    # What the timer itself and the empty call around each look-up take is no part of the look-up.
    overhead = statistics.median(samples.pop("nothing"))
    return {
        name: {
            "per_second": statistics.median(rates[name]),
            "p50_us": (percentile(taken, 50) - overhead) / 1e3,
            "p99_us": (percentile(taken, 99) - overhead) / 1e3,
        }
        for name, taken in samples.items()
    }


def time_calls(call: Callable[[], object], count: int) -> list[int]:
    taken = []
    for _ in range(count):
        started = perf_counter_ns()
        call()
        taken.append(perf_counter_ns() - started)
    return taken


def calls_per_second(call: Callable[[], object], count: int) -> float:
    started = perf_counter_ns()
    for _ in range(count):
        call()
    return count / (perf_counter_ns() - started) * 1e9


def dict_look_up() -> Callable[[], object]:
    table = {(WORKLOAD, m, 7168, 2048): {"threads": 2} for m in SIZES}
    return lambda: table[WORKLOAD, 16, 7168, 2048]


def json_look_up(path: Path) -> Callable[[], object]:
    @lru_cache
    def table(layer: str) -> dict[int, object]:
        with path.with_name(layer).open() as file:
            return {int(m): blocks for m, blocks in json.load(file).items()}

    def look_up(m: int, layer: str) -> object:
        blocks = table(layer)
        return blocks[min(blocks, key=lambda size: abs(size - m))]

    return lambda: look_up(16, path.name)


def sqlite_look_up(path: Path) -> Callable[[], object]:
    key = asked_key()

    def look_up() -> object:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            sql = "SELECT configuration FROM choice WHERE workload = ? AND problem = ?"
            return json.loads(connection.execute(sql, (WORKLOAD, key)).fetchone()[0])

    return look_up


def loaded_modules() -> Report:
    """What a look-up loads beyond a bare interpreter."""
    arguments = ", ".join(f"{name}={value}" for name, value in ASKED.items())
    program = (
        "import sys; bare = set(sys.modules); import autotune; "
        f"autotune.get_best_config({WORKLOAD!r}, {arguments}); print(*sorted(set(sys.modules) - bare))"
    )
    loaded = output_of(program).split()
    allowed = {"autotune", *sys.stdlib_module_names}
    return {"loaded": loaded, "foreign": [name for name in loaded if name.partition(".")[0] not in allowed]}


def median_with_interval(values: list[float], resamples: int = 2_000) -> Report:
    """The median with its 95 % bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples))
    low, high = medians[int(0.025 * resamples)], medians[int(0.975 * resamples)]
    return {"median": statistics.median(values), "low": low, "high": high}


def percentile(values: list[int], q: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[q - 1]


def limits_missed(report: Report) -> list[str]:
    missed = []
    above = report["fresh"]["get_best_config"]["above_bare_ms"]["median"]
    if above > MOST_FRESH_MS:
        missed.append(
            f"import and first look-up: {above:.1f} ms above a bare interpreter, limit {MOST_FRESH_MS:g}"
        )
    p50 = report["hot"]["get_best_config"]["p50_us"]
    if p50 > MOST_HOT_US:
        missed.append(f"median hot look-up: {p50:.2f} us, limit {MOST_HOT_US}")
    if foreign := report["modules"]["foreign"]:
        missed.append(f"a look-up loads modules from outside the standard library: {', '.join(foreign)}")
    return missed


def as_text(report: Report) -> str:
    host, modules = report["machine"], report["modules"]
    lines = [
        "{cpu}, {cores} cores, Python {python}, SQLite {sqlite}, Linux {kernel}, load {load}".format(**host),
        f"snapshot of {report['rows']} winners",
    ]
    if host["load"] > host["cores"] / 2:
        lines.append("the machine was busy: times are inflated, look at the ratios")
    columns = ("above_bare_ms", "cpu_above_bare_ms", "ratio")
    lines += ["", f"{'fresh process':<34}{'ms':>8}{'above bare':>24}{'CPU above bare':>24}{'ratio':>22}"]
    for name, figures in report["fresh"].items():
        shown = ["{median:.2f} ({low:.2f} to {high:.2f})".format(**figures[column]) for column in columns]
        lines.append(f"{name:<34}{figures['ms']:>8.2f}{shown[0]:>24}{shown[1]:>24}{shown[2]:>22}")
    lines += ["", f"{'warm process':<34}{'per second':>12}{'p50, us':>10}{'p99, us':>10}"]
    for name, figures in report["hot"].items():
        lines.append(
            f"{name:<34}{figures['per_second']:>12,.0f}{figures['p50_us']:>10.2f}{figures['p99_us']:>10.2f}"
        )
    lines += ["", "modules that a look-up loads: " + ", ".join(modules["loaded"])]
    verdicts = report["missed"] or [
        f"within the limits: {MOST_FRESH_MS:g} ms fresh, {MOST_HOT_US} us hot, nothing foreign loaded"
    ]
    return "\n".join([*lines, "", *verdicts])


if __name__ == "__main__":
    raise SystemExit(main())
