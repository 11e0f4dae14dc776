"""Bundles: winners with their proofs, and trials if wanted, of one history in one file for another.

A bundle is a line of JSON, which says what it is and has length and SHA-256 of the content, and the content,
gzip-compressed JSON. What is read is checked from end to end before anything of it is used: it must be what
this version would write, byte by byte, with sound figures, known devices and nothing that could be a path.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
import zlib
from typing import TYPE_CHECKING, Any

import msgspec

import autotune
from autotune.errors import UsageError
from autotune.space.problem import problem_key
from autotune.store.records import Choice, Interval, Measurement, StudyKey, Trial, Winner

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from autotune.store import HistoryReader
    from autotune.store.entries import Decision

FORMAT, VERSION = "autotune bundle", 1
LARGEST_FILE = 64 * 2**20
LARGEST_CONTENT = 512 * 2**20
LONGEST_HEADER = 512
LONGEST_TEXT = 512
MOST_ITEMS = 1_000_000
MOST_SETTINGS = 64

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]")


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    format: str
    version: int
    bytes: int
    sha256: str


class BundledDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device that something was proven on."""

    digest: str
    kind: str
    name: str
    family: str


class BundledStudy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A study with its trials."""

    key: StudyKey
    dimensions: dict[str, int | str]
    trials: list[Trial]


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle holds.

    Attributes:
        made_at: seconds since the epoch.
        made_by: the version of autotune that wrote it.
    """

    made_at: float
    made_by: str
    devices: list[BundledDevice]
    winners: list[Winner]
    studies: list[BundledStudy] = []


def collect(
    reader: HistoryReader, *, device: str | None = None, workload: str | None = None, trials: bool = False
) -> Bundle:
    """The present winners of a history as a bundle; what has a name that a bundle may not hold is left out.

    Args:
        reader: the history.
        device: digest of the only device that is meant.
        workload: the only one that is meant.
        trials: whether the studies behind the winners come along.
    """
    found = reader.decisions(device=device, workload=workload, state="current")
    # What the fleet proved is not ours to vouch for.
    decisions = [one for one in found if one.origin is None and not _has_forbidden(_names(one.winner))]
    used = {one.winner.device for one in decisions}
    known = [one for one in reader.devices() if one.digest in used]
    devices = [BundledDevice(one.digest, one.kind, _clean(one.name), _clean(one.family)) for one in known]
    studies = [study for one in decisions for study in _study(reader, one)] if trials else []
    winners = [one.winner for one in decisions]
    return Bundle(time.time(), autotune.__version__, devices, winners, studies)


def write(bundle: Bundle) -> bytes:
    """A bundle as a file's content.

    Raises:
        UsageError: it is too large.
    """
    content = msgspec.json.encode(bundle)
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = compressor.compress(content) + compressor.flush()
    if len(content) > LARGEST_CONTENT or len(packed) > LARGEST_FILE:
        raise UsageError(
            f"the bundle would have {len(packed) >> 20} MiB, more than {LARGEST_FILE >> 20}; choose a device "
            "or a workload, or leave the trials out"
        )
    header = Header(FORMAT, VERSION, len(content), hashlib.sha256(content).hexdigest())
    return msgspec.json.encode(header) + b"\n" + packed


def read(data: bytes, name: str) -> tuple[Bundle, str]:
    """The bundle in a file's content, checked from end to end, and its digest.

    Args:
        data: the content.
        name: of the file, for messages.

    Raises:
        UsageError: it is no sound bundle.
    """
    header, content = _unpack(data, name)
    try:
        bundle = msgspec.json.decode(content, type=Bundle)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{name}: is no bundle: {_line(error)}") from None
    # So that nothing is in it that was not looked at: no unknown field, no second spelling of a value.
    if msgspec.json.encode(bundle) != content:
        raise UsageError(f"{name}: holds what a bundle of version {VERSION} does not")
    fault = next(_faults(bundle), None)
    if fault:
        raise UsageError(f"{name}: {fault}")
    return bundle, header.sha256


def _unpack(data: bytes, name: str) -> tuple[Header, bytes]:
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{name}: has more than {LARGEST_FILE >> 20} MiB, which no bundle has")
    line, newline, packed = data.partition(b"\n")
    try:
        if not newline or len(line) > LONGEST_HEADER:
            raise UsageError(f"{name}: is no bundle: it does not begin with its header")
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise UsageError(f"{name}: is no bundle: it does not begin with its header") from None
    if header.format != FORMAT or header.version != VERSION:
        told = f"{_shown(header.format)} of version {header.version}"
        raise UsageError(f"{name}: is {told}, expected {FORMAT} of version {VERSION}")
    if not 0 < header.bytes <= LARGEST_CONTENT:
        raise UsageError(f"{name}: would unpack to {header.bytes} bytes, which no bundle has")
    unpacker = zlib.decompressobj(31)
    try:
        content = unpacker.decompress(packed, header.bytes + 1)
    except zlib.error as error:
        raise UsageError(f"{name}: is damaged: {_line(error)}") from None
    if len(content) != header.bytes or not unpacker.eof or unpacker.unused_data:
        raise UsageError(f"{name}: is cut off or has something appended")
    if hashlib.sha256(content).hexdigest() != header.sha256:
        raise UsageError(f"{name}: is damaged: its checksum is not that of its content")
    return header, content


def _faults(bundle: Bundle) -> Iterator[str]:
    """What is wrong with a bundle that was decoded, a line each."""
    if not _is_positive(bundle.made_at):
        yield "its moment is wrong"
    if _has_forbidden([bundle.made_by]):
        yield "its version is no version"
    devices = {device.digest: device for device in bundle.devices}
    if len(devices) != len(bundle.devices):
        yield "names a device twice"
    for device in bundle.devices:
        if not _DIGEST.fullmatch(device.digest):
            yield f"{_shown(device.digest)} is no digest"
        if device.kind not in ("cpu", "cuda") or _has_forbidden([device.name, device.family]):
            yield f"device {device.digest} is none that autotune knows"
    if len(bundle.winners) + sum(len(study.trials) for study in bundle.studies) > MOST_ITEMS:
        yield f"holds more than {MOST_ITEMS:,} winners and trials"
    seen = set()
    for winner in bundle.winners:
        yield from winner_faults(winner, devices)
        key = (winner.workload, winner.problem, winner.objective, winner.device, winner.stack)
        if key in seen:
            yield f"holds two winners for {_shown(winner.problem)}"
        seen.add(key)
    for study in bundle.studies:
        yield from _study_faults(study, devices)


def winner_faults(winner: Winner, devices: Collection[str]) -> Iterator[str]:
    """What is wrong with a winner of another machine, a line each.

    Args:
        winner: that was decoded, of which nothing else is known.
        devices: digests of those that it may be for.
    """
    where = f"winner of {_shown(winner.workload)} {_shown(winner.problem)}"
    if _has_forbidden(_names(winner)):
        yield f"{where}: has a name that is too long, or could be a path"
    if winner.device not in devices or not _DIGEST.fullmatch(winner.stack):
        yield f"{where}: its device or stack is not in the bundle"
    if winner.problem != problem_key(winner.dimensions):
        yield f"{where}: its problem is not that of its dimensions"
    if not _is_positive(winner.decided_at) or not _is_share(winner.baseline_error):
        yield f"{where}: its moment or its baseline's error is wrong"
    if not winner.choices or [c.rank for c in winner.choices] != list(range(len(winner.choices))):
        yield f"{where}: its choices are not ranked 0, 1, ..."
    for choice in winner.choices:
        if not _is_sound(choice):
            yield f"{where}: choice {choice.rank} has a figure that cannot be"


def _study_faults(study: BundledStudy, devices: dict[str, BundledDevice]) -> Iterator[str]:
    key = study.key
    where = f"study of {_shown(key.workload)} {_shown(key.problem)}"
    texts = [key.workload, key.problem, key.objective, key.space, *_texts(study.dimensions)]
    if _has_forbidden(texts) or key.problem != problem_key(study.dimensions):
        yield f"{where}: its names or dimensions are wrong"
    if key.device not in devices or not _DIGEST.fullmatch(key.stack):
        yield f"{where}: its device or stack is not in the bundle"
    if [trial.number for trial in study.trials] != list(range(len(study.trials))):
        yield f"{where}: its trials are not numbered 0, 1, ..."
    for trial in study.trials:
        figures = [trial.compile_seconds, trial.measure_seconds, trial.started_at]
        sound = all(math.isfinite(figure) and figure >= 0 for figure in figures)
        told = [trial.stage, trial.reason, *_texts(trial.configuration)]
        if not sound or _has_forbidden(told) or not _is_configuration(trial.configuration):
            yield f"{where}: trial {trial.number} has a value that cannot be"
        if not _is_measured(trial.measurement) or not (trial.error is None or _is_share(trial.error)):
            yield f"{where}: trial {trial.number} has a figure that cannot be"


def _is_sound(choice: Choice) -> bool:
    proof = choice.proof
    intervals = [proof.against_baseline, *([proof.against_incumbent] if proof.against_incumbent else [])]
    return (
        all(map(_is_positive, (choice.latency_ns, proof.latency_ns, proof.baseline_ns)))
        and all(map(_is_interval, intervals))
        and _is_share(choice.error)
        and 0 <= choice.memory_bytes < 2**53
        and 0 <= proof.rounds < 2**31
        and 0 <= proof.confidence <= 1
        and 0 <= proof.margin <= 1
        and (choice.trial is None or 0 <= choice.trial < 2**31)
        and _is_configuration(choice.configuration)
        and _is_measured(choice.measurement)
        and not _has_forbidden([proof.stopped])
    )


def _is_measured(measured: Measurement | None) -> bool:
    """Whether a measurement can be one; that there is none is fine."""
    if measured is None:
        return True
    samples, clocks = measured.samples_ns, measured.clocks
    return (
        all(0 < sample < 2**62 for sample in samples)
        and len(samples) <= MOST_ITEMS
        and not _has_forbidden([measured.stopped, measured.timer, measured.cache, *clocks])
        and all(map(math.isfinite, clocks.values()))
        and len(clocks) <= MOST_SETTINGS
        and 0 <= measured.discarded < 2**31
    )


def _is_configuration(settings: dict[str, Any]) -> bool:
    """Whether it has an implementation, and settings that are plain values."""
    plain = (str, int, float, bool, type(None))
    return (
        isinstance(settings.get("implementation"), str)
        and len(settings) <= MOST_SETTINGS
        and all(isinstance(value, plain) for value in settings.values())
        and all(math.isfinite(value) for value in settings.values() if isinstance(value, float))
        and all(abs(value) < 2**53 for value in settings.values() if isinstance(value, int))
    )


def _is_interval(interval: Interval) -> bool:
    bounds = (interval.low, interval.ratio, interval.high)
    return all(map(math.isfinite, bounds)) and 0 < interval.low <= interval.ratio <= interval.high


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and 0 < value < 2**62


def _is_share(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _names(winner: Winner) -> list[str]:
    """Every text of a winner that somebody chose."""
    texts = [winner.workload, winner.problem, winner.neighbourhood, winner.objective, winner.space]
    texts += _texts(winner.dimensions)
    return texts + [text for choice in winner.choices for text in _texts(choice.configuration)]


def _texts(settings: dict[str, Any]) -> list[str]:
    return [*settings, *(value for value in settings.values() if isinstance(value, str))]


def _has_forbidden(texts: Iterable[str]) -> bool:
    return any(len(text) > LONGEST_TEXT or _FORBIDDEN.search(text) for text in texts)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub(" ", text)[:LONGEST_TEXT]


def _study(reader: HistoryReader, decision: Decision) -> list[BundledStudy]:
    """The study behind a decision; reasons lose what could be a path."""
    if decision.study is None:
        return []
    entry = reader.study(decision.study)
    kept = [one for one in reader.trials(entry.id) if not _has_forbidden(_texts(one.configuration))]
    trials = [
        msgspec.structs.replace(trial, number=number, reason=_clean(trial.reason))
        for number, trial in enumerate(kept)
    ]
    return [BundledStudy(entry.key, entry.dimensions, trials)]


def _shown(text: str) -> str:
    return repr(text[:60])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
