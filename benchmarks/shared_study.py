"""How much sooner several nodes that search together find a good configuration than one does alone.

    python benchmarks/shared_study.py [LANDSCAPE...] [--nodes 4] [--seeds 5] [--trial-seconds 0.5]
                                      [--json]

Nodes are processes of this machine with state folders of their own, each with a simulated device: a recorded
landscape, whose trials take --trial-seconds each (see `shared_node.py`). Together they search one Optuna
study in a PostgreSQL that is started here. Measured is the wall time from the common start until any node has
measured a configuration within 5 % of the landscape's optimum, against that of one node with its study in
memory, seed by seed. Both begin with everything imported, and as many searches of one node run side by side
as nodes search together, so that both have the same share of the machine's cores. Printed are medians over
the seeds, and the trials that it took in all; the speed-up is the ratio of the medians. Fails below 3x for
four nodes, in the geometric mean over the landscapes.
"""

from __future__ import annotations

import argparse
import json
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from autotune.cli.output import console, table
from autotune.errors import AutotuneError
from autotune.fleet.studies import make_tables
from autotune.search.landscape import Landscape, read_landscape
from tests.fleet.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

WITHIN = 1.05
LEAST_SPEEDUP = 3.0
NODE = Path(__file__).with_name("shared_node.py")
LANDSCAPES = Path(__file__).parent / "landscapes"
HARDEST = ("fused_moe_tokens16*", "fused_moe_tokens64*", "linear_m4*")
"""Of our own recordings those whose good configurations are the fewest: elsewhere a search is there after ten
trials, four of which it begins with."""


@dataclass(frozen=True)
class Found:
    """One search.

    Attributes:
        seconds: until a configuration within 5 % was measured.
        trials: that all nodes had measured by then.
    """

    seconds: float
    trials: int


def search(path: Path, landscape: Landscape, nodes: int, fleet: Path | None, **options: Any) -> Found:
    """Have nodes search until one has found it; they are ended then."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    shared = [f"--fleet={fleet}"] if fleet else []
    running: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(nodes):
                command = [sys.executable, str(NODE), str(path), f"{folder}/{number}", f"--name=node{number}"]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                running.append(subprocess.Popen([*command, *words, *shared], **pipes))
            return _watch(running, WITHIN * landscape.optimum)
        finally:
            for node in running:
                node.kill()
                node.wait()


def _watch(running: Sequence[subprocess.Popen[str]], good: float) -> Found:
    for node in running:
        assert node.stdout is not None
        if node.stdout.readline() != "ready\n":
            raise RuntimeError("a node did not start; see above")
    started = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for node in running:
            assert node.stdin is not None
            node.stdin.write("go\n")
            node.stdin.flush()
            selector.register(node.stdout, selectors.EVENT_READ, node)
        trials = 0
        while selector.get_map():
            for key, _ in selector.select():
                line = key.data.stdout.readline()
                if not line:
                    selector.unregister(key.fileobj)
                    continue
                told = json.loads(line)
                if "at" not in told:
                    continue
                trials += 1
                if told["time"] <= good:
                    return Found(told["at"] - started, trials)
    raise RuntimeError("no node found it; see above")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [next(LANDSCAPES.glob(name)) for name in HARDEST]
    parser.add_argument("landscapes", nargs="*", type=Path, default=default, metavar="LANDSCAPE")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trial-seconds", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, dict[str, list[Found]]] = {}
    try:
        landscapes = {path: read_landscape(path) for path in options.landscapes}
    except AutotuneError as error:
        print(f"shared_study: {error}", file=sys.stderr)
        return error.exit_code
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for path, landscape in landscapes.items():
                told = [{"seed": one, "trial_seconds": options.trial_seconds} for one in range(options.seeds)]
                with ThreadPoolExecutor(options.nodes) as pool:
                    alone = [pool.submit(search, path, landscape, 1, None, **one) for one in told]
                both = results[landscape.name] = {"one": [one.result() for one in alone], "together": []}
                for one in told:
                    database = server.create(Path(folder))
                    make_tables(database.settings("admin"))
                    fleet = Path(folder) / "fleet.json"
                    fleet.write_bytes(msgspec.json.encode(database.settings()))
                    both["together"].append(search(path, landscape, options.nodes, fleet, **one))
                    server.drop(database.name)
    finally:
        server.close()
    return report(results, options.nodes, options.json)


def report(results: dict[str, dict[str, list[Found]]], nodes: int, as_json: bool) -> int:
    """Print what was seen; 1 when the requirement is missed."""
    columns = ("landscape", "one: s", "trials", f"{nodes}: s", "trials", "speed-up")
    shown = table(*columns, right=columns[1:])
    speedups = []
    for name, both in results.items():
        seconds, trials = (
            {who: statistics.median(getattr(found, what) for found in runs) for who, runs in both.items()}
            for what in ("seconds", "trials")
        )
        speedups.append(seconds["one"] / seconds["together"])
        cells = [seconds["one"], trials["one"], seconds["together"], trials["together"]]
        shown.add_row(name, *(f"{cell:.4g}" for cell in cells), f"{speedups[-1]:.2f}x")
    mean = statistics.geometric_mean(speedups)
    if as_json:
        plain = {
            name: {who: [asdict(r) for r in runs] for who, runs in b.items()} for name, b in results.items()
        }
        print(json.dumps({"runs": plain, "speedup": mean}, indent=2))
    else:
        console.print(shown)
        console.print(f"geometric mean over {len(results)} landscapes: {mean:.2f}x with {nodes} nodes")
    return int(nodes == 4 and mean < LEAST_SPEEDUP)


if __name__ == "__main__":
    sys.exit(main())
