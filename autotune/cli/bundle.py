"""`autotune export bundle`, `autotune import bundle`, `list` and `undo`: sharing winners between machines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import StateDirError, UsageError

if TYPE_CHECKING:
    from autotune.exports.bundle import Bundle

SUFFIX = ".bundle"
MOST_SHOWN = 40


def export_bundle(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Where to write, e.g. epyc.bundle.")],
    device: Annotated[
        str | None, typer.Option("--device", help="Only this device: digest, its start, or name.")
    ] = None,
    workload: Annotated[str | None, typer.Option("--workload", help="Only this workload.")] = None,
    trials: Annotated[bool, typer.Option("--trials", help="With the trials of their studies.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: options.Json = False,
) -> None:
    """Write the present winners with their proofs into one file for other machines."""
    from autotune.cli import output
    from autotune.exports import bundle as bundles
    from autotune.store import read_history

    if to.exists() and not force:
        raise UsageError(f"{to}: is there already; give --force to replace it")
    with read_history() as reader:
        meant = options.digest(reader, "device", device)
        made = bundles.collect(reader, device=meant, workload=workload, trials=trials)
    if not made.winners:
        raise UsageError("no winner is meant; see 'autotune report' for those that there are")
    data = bundles.write(made)
    _write(to, data)
    count = sum(len(study.trials) for study in made.studies)
    if json:
        output.print_json(
            {"file": str(to), "winners": len(made.winners), "trials": count, "bytes": len(data)}
        )
    else:
        told = f"{to}: {len(made.winners)} winners, {count} trials, {output.size(len(data))}"
        output.console.print(output.plain(told))


def import_bundle(
    file: Annotated[str, typer.Argument(help="A bundle, or the name of one that is shipped.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it holds and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Take the winners of another machine as candidates: unproven until this machine has decided itself.

    It is shown before it is taken. Nothing is published; 'autotune import undo' takes it back. A daemon that
    holds the history takes it, and tries its winners as soon as the device is idle.
    """
    from autotune.cli import output
    from autotune.exports import bundle as bundles

    data, name = _read(file)
    content, digest = bundles.read(data, name)
    told: dict[str, Any] = {"file": name, "sha256": digest, **_counts(content), "bundle": None}
    if not json:
        output.console.print(_view(content, digest))
    if not dry_run:
        if not yes and not json and not _confirmed():
            raise UsageError("nothing was imported; give --yes where nobody can be asked")
        told["bundle"] = take_here_or_by_daemon(content, data, digest)
    if json:
        output.print_json(told)
    elif told["bundle"] is not None:
        output.console.print(
            f"imported as bundle {told['bundle']}; its winners are tried first when their problems are "
            f"tuned, 'autotune import undo {told['bundle']}' takes it back"
        )


def list_bundles(json: options.Json = False, csv: options.Csv = False) -> None:
    """List what was imported, and what this machine says of it: unproven, proven here, another won here."""
    from autotune.cli import output
    from autotune.store import read_history
    from autotune.store.bundles import entries, imported_winners

    with read_history() as reader:
        bundles, winners = entries(reader), imported_winners(reader)
    if json:
        output.print_json({"bundles": bundles, "winners": winners})
        return
    if csv:
        output.print_csv(output.as_rows(winners))
        return
    table = output.table("bundle", "imported", "winners", "trials", "digest", right=("bundle", "winners"))
    for one in bundles:
        moment = output.moment(one.imported_at)
        table.add_row(str(one.id), moment, str(one.winners), str(one.trials), one.digest[:16])
    output.console.print(table)
    shown = output.table("bundle", "workload", "problem", "configuration", "there", "here", right=("bundle",))
    for winner in winners[:MOST_SHOWN]:
        chosen = output.configuration(winner.configuration)
        gain = f"{winner.speedup:.2f}x"
        shown.add_row(str(winner.bundle), winner.workload, winner.problem, chosen, gain, winner.state)
    output.console.print(shown)


def undo_bundle(
    number: Annotated[int, typer.Argument(help="A bundle's number; see 'autotune import list'.")],
    json: options.Json = False,
) -> None:
    """Take an import back; what this machine has proven since stays."""
    from autotune.cli import output
    from autotune.cli.writing import here_or_by_daemon
    from autotune.daemon.control import ForgetBundle
    from autotune.store.bundles import forget

    here_or_by_daemon(
        lambda history: forget(history, number), lambda state_dir: ForgetBundle(state_dir, number)
    )
    output.print_json({"bundle": number}) if json else output.console.print(f"bundle {number} is taken back")


def take_here_or_by_daemon(content: Bundle, data: bytes, digest: str) -> int:
    """Take a bundle into the history; returns its number there.

    Args:
        content: of the bundle.
        data: the file that it was read from.
        digest: of the content.
    """
    from autotune.cli.writing import here_or_by_daemon
    from autotune.daemon.control import TakeBundle
    from autotune.store.bundles import take

    done = here_or_by_daemon(
        lambda history: {"bundle": take(history, content, digest)},
        lambda state_dir: TakeBundle(state_dir, digest),
        data,
    )
    return int(done["bundle"])


def _read(file: str) -> tuple[bytes, str]:
    """A file's content; a name without a folder may be that of a shipped one."""
    from autotune import paths
    from autotune.exports.bundle import LARGEST_FILE

    shipped = os.path.join(paths.data_dir("db"), "seed", file + SUFFIX)
    path = shipped if os.sep not in file and not os.path.exists(file) and os.path.exists(shipped) else file
    try:
        if not os.path.isfile(path):
            raise UsageError(f"{file!r}: is not a file, and no bundle of that name is shipped")
        with open(path, "rb") as opened:
            return opened.read(LARGEST_FILE + 1), path
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{file!r}: cannot be read: {why}") from None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        raise StateDirError(f"{path}: cannot be written: {error.strerror}") from None


def _counts(content: Bundle) -> dict[str, int]:
    trials = sum(len(study.trials) for study in content.studies)
    return {"devices": len(content.devices), "winners": len(content.winners), "trials": trials}


def _view(content: Bundle, digest: str) -> Any:
    from rich.console import Group

    from autotune.cli import output

    counts = _counts(content)
    facts = {
        "made": f"{output.moment(content.made_at)} by autotune {content.made_by}",
        "SHA-256": digest,
        "holds": f"{counts['winners']} winners, {counts['trials']} trials",
        "devices": "; ".join(f"{one.name} ({one.family}) {one.digest}" for one in content.devices),
    }
    table = output.table("problem", "configuration", "there", "error", right=("error",))
    for winner in content.winners[:MOST_SHOWN]:
        best = winner.choices[0]
        gain = output.speedup(best.proof.against_baseline)
        chosen = "baseline kept" if best.is_baseline else output.configuration(best.configuration)
        table.add_row(f"{winner.workload} {winner.problem}", chosen, gain, output.error(best.error))
    if len(content.winners) > MOST_SHOWN:
        table.caption = f"{MOST_SHOWN} of {len(content.winners)} winners shown"
        table.caption_justify = "left"
    return Group(output.facts(facts), table)


def _confirmed() -> bool:
    """Whether a person at a terminal agrees."""
    return sys.stdin.isatty() and typer.confirm("Take this as candidates?")
