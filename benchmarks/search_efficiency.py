"""How many evaluations a search needs, on recorded landscapes, ours and its peers side by side.

    python benchmarks/search_efficiency.py [LANDSCAPE...] [--seeds N] [--evaluations N] [--jobs N]
                                           [--only METHOD,...] [--results FOLDER]

LANDSCAPE is a file in the cache format of Kernel Tuner or a list of its results, gzipped or not, or a folder
of such files, named `<kernel>__<device>.json[.gz]`; by default our recordings in `benchmarks/landscapes/`.
All methods get the same seeds and the same budget. A configuration that was compiled or run and failed counts
as an evaluation; one that a static constraint rules out is free, and so is one that was tried before.

Methods (`--only` takes the names, comma-separated):

    cold         our sampler
    transfer     our sampler, given the cold searches of the same seed on the other devices of the same kernel
    recorded     the same, but given everything that was ever measured on those devices
    shuffled     as transfer, but the times of those searches are shuffled: a prior that misleads
    foreign      our sampler, given the cold searches of the same seed on another kernel (the next by name),
                 whose parameters are taken for this kernel's in their order: else they would say nothing
    tpe gp       Optuna's samplers over categorical parameters, what is invalid or failed told to TPE as
                 pruned, and to the GP, which would learn nothing of that, as the worst value so far
    random       valid configurations in random order
    kt-ga kt-greywolf kt-vndx      Kernel Tuner in simulation mode, where it is installed

Printed per landscape and overall: best / optimum after 10, 25, 50, 100 and 200 evaluations, median over seeds
(and 90th percentile); the share of runs that end within 5 % of the optimum; the field's score P (0 is random
search, 1 the optimum at once; see `Landscape.scores`) and its standard error over seeds; proposals per useful
evaluation; milliseconds of processor time per proposal (median over seeds). Overall: geometric mean of the
ratios, arithmetic mean of the rest. A second table has the evaluations until the overall ratio is within 20,
10, 5, 2 and 1 %: what a misleading prior costs is the difference from the cold search there.

Every run is stored as it ends under --results, so that a long comparison can be stopped and resumed; what was
stored is used again unless the landscape, those it starts from, or the code of our sampler has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

# One thread per run: runs side by side would fight over the cores, and times per proposal would mean less.
for knob in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(knob, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from search_methods import METHODS, run  # noqa: E402
from search_report import draw, tables, text  # noqa: E402

import autotune.search.sampler  # noqa: E402
from autotune.errors import UsageError  # noqa: E402
from autotune.search.landscape import Landscape, read_landscape  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Prior = list[tuple[Path, list[int] | None]]

SHIPPED = Path(__file__).parent / "landscapes"
INFORMED = ("transfer", "recorded", "shuffled", "foreign")
OURS = ("cold", *INFORMED)


class Store:
    """Runs that are finished, one file per method and landscape.

    Args:
        folder: where the files are.
        files: all landscapes: what the runs that start from others' started from.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder = folder
        self._files = files
        folder.mkdir(parents=True, exist_ok=True)
        code = sorted(Path(autotune.search.sampler.__file__).parent.glob("*.py"))
        self._sampler = hashlib.sha256(b"".join(file.read_bytes() for file in code)).hexdigest()[:12]
        self._records: dict[Path, dict[str, Any]] = {}

    def get(self, method: str, path: Path, seed: int, evaluations: int) -> dict[str, Any] | None:
        """A stored run, None if there is none."""
        record: dict[str, Any] | None = self._read(self._file(method, path, evaluations)).get(str(seed))
        return record

    def put(self, method: str, path: Path, seed: int, evaluations: int, record: dict[str, Any]) -> None:
        """Store a run at once."""
        file = self._file(method, path, evaluations)
        self._read(file)[str(seed)] = record
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(self._read(file)))
        fresh.replace(file)

    def _file(self, method: str, path: Path, evaluations: int) -> Path:
        state = _digest(path)
        if others := _others(method, path, self._files):
            state = hashlib.sha256(" ".join([state, *map(_digest, others)]).encode()).hexdigest()[:8]
        code = f"-{self._sampler}" if method in OURS else ""
        return self._folder / f"{method}{code}-{_name(path)}-{state}-{evaluations}.json"

    def _read(self, file: Path) -> dict[str, Any]:
        if file not in self._records:
            self._records[file] = json.loads(file.read_text()) if file.exists() else {}
        return self._records[file]


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def files_of(given: Sequence[Path]) -> list[Path]:
    """Landscape files, those of folders included."""
    files = []
    for path in given:
        files += sorted([*path.glob("*.json.gz"), *path.glob("*.json")]) if path.is_dir() else [path]
    if not files:
        raise UsageError(
            f"no landscape under {', '.join(map(str, given))}; expected *.json or *.json.gz files"
        )
    return files


def _siblings(path: Path, files: Sequence[Path]) -> list[Path]:
    """The other devices' landscapes of the same kernel."""
    kernel = _name(path).split("__")[0]
    return [other for other in files if other != path and _name(other).split("__")[0] == kernel]


def _strangers(path: Path, files: Sequence[Path]) -> list[Path]:
    """All devices' landscapes of the next kernel by name, the first after the last; none for an only one."""
    kernels = sorted({_name(file).split("__")[0] for file in files})
    kernel = _name(path).split("__")[0]
    following = kernels[(kernels.index(kernel) + 1) % len(kernels)]
    return [file for file in files if _name(file).split("__")[0] == following != kernel]


def _others(method: str, path: Path, files: Sequence[Path]) -> list[Path]:
    """The landscapes whose searches a run starts from."""
    if method not in INFORMED:
        return []
    return (_strangers if method == "foreign" else _siblings)(path, files)


def _due(
    method: str, files: Sequence[Path], seeds: int, evaluations: int, store: Store
) -> Iterator[tuple[Path, int, Prior]]:
    """Runs of a method that are not stored yet; every method has the first seeds of the same row."""
    for seed in range(min(seeds, METHODS[method].seeds)):
        for path in files:
            if store.get(method, path, seed, evaluations) is not None:
                continue
            prior: Prior = []
            for other in _others(method, path, files):
                cold = store.get("cold", other, seed, evaluations)
                assert cold is not None, "cold runs come first"
                prior.append((other, None if method == "recorded" else cold["rows"]))
            if method in INFORMED and not prior:
                continue
            yield path, seed, prior


def _complete(
    methods: Sequence[str], files: Sequence[Path], seeds: int, evaluations: int, jobs: int, store: Store
) -> None:
    """Run what is not stored yet."""
    with ProcessPoolExecutor(jobs) as pool:
        for method in methods:
            due = list(_due(method, files, seeds, evaluations, store))
            running = {
                pool.submit(run, method, path, seed, evaluations, prior): (path, seed)
                for path, seed, prior in due
            }
            console = Console(stderr=True, quiet=not due)
            for future in track(as_completed(running), METHODS[method].label, len(due), console=console):
                path, seed = running[future]
                store.put(method, path, seed, evaluations, future.result())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("landscapes", nargs="*", type=Path, metavar="LANDSCAPE", default=[SHIPPED])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", default=",".join(METHODS), help="methods, comma-separated")
    parser.add_argument(
        "--results", type=Path, default=Path("search_efficiency"), help="folder for runs and figures"
    )
    return parser.parse_args()


def main() -> int:
    """Run, print and draw."""
    arguments = _arguments()
    methods = [method for method in METHODS if method in arguments.only.split(",")]
    for method in arguments.only.split(","):
        if method not in METHODS:
            print(f"unknown method {method!r}; expected some of {', '.join(METHODS)}", file=sys.stderr)
            return 2
    for method in list(methods):
        if not METHODS[method].installed:
            print(
                f"{METHODS[method].label}: left out, {METHODS[method].needs} is not installed",
                file=sys.stderr,
            )
            methods.remove(method)
    try:
        files = files_of(arguments.landscapes)
        landscapes: list[Landscape] = [read_landscape(file) for file in files]
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    store = Store(arguments.results / "runs", files)
    ahead = ["cold"] if "cold" not in methods and set(INFORMED) & set(methods) else []
    _complete([*ahead, *methods], files, arguments.seeds, arguments.evaluations, arguments.jobs, store)
    results = {
        method: {
            landscape.name: [
                record
                for seed in range(min(arguments.seeds, METHODS[method].seeds))
                if (record := store.get(method, file, seed, arguments.evaluations))
            ]
            for landscape, file in zip(landscapes, files, strict=True)
        }
        for method in methods
    }
    for table in tables(landscapes, results):
        print(f"\n{text(table)}")
    for file in draw(landscapes, results, arguments.results):
        print(f"\nwrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
