"""`autotune.listen()`: writes down what `@triton.autotune` finds, through Triton's own listener.

Each finding is one line of JSON, appended in one write to a file that many processes share and that has a
bound. Nothing that goes wrong here reaches the process that serves.
"""

from __future__ import annotations

import os

from autotune import paths
from autotune.lookup.warning import warn_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FILE = "triton_autotune.jsonl"
LARGEST_BYTES = 8 << 20
"""Of the file: some 4,000 findings of 20 configurations. What comes after is not written."""
LONGEST_LINE = 65536


def listen(path: str | None = None) -> bool:
    """Record what every `@triton.autotune` of this process finds from now on; whether that can be done.

    A listener that is there already is called as before. Calling this again changes nothing.

    Args:
        path: of the file; `AUTOTUNE_LISTEN_FILE` if set, else `triton_autotune.jsonl` in the cache folder.
    """
    try:
        from triton import knobs

        before = knobs.autotuning.listener
        if not isinstance(before, Listener):
            knobs.autotuning.listener = Listener(path or listen_path(), before)
    except Exception as error:  # no Triton, or one without a listener: the caller serves all the same
        warn_once("listen", f"cannot listen to triton.autotune: {type(error).__name__}: {error}")
        return False
    return True


def listen_path() -> str:
    """The file that findings are written to."""
    return os.environ.get("AUTOTUNE_LISTEN_FILE") or os.path.join(paths.cache_dir(), FILE)


class Listener:
    """What Triton calls after each tuning.

    Args:
        path: of the file.
        before: the listener that was there.
    """

    def __init__(self, path: str, before: Any = None) -> None:
        self.path = path
        self.before = before

    def __call__(self, **finding: Any) -> None:
        """Write a finding down, then pass it on as it came."""
        try:
            _append(self.path, line_of(finding))
        except Exception as error:
            warn_once(f"listen {self.path}", f"{self.path}: a finding was not written: {error}")
        if self.before is not None:
            self.before(**finding)


def line_of(finding: Mapping[str, Any]) -> bytes:
    """A finding as a line: the function, its key, the best configuration, and what each one took."""
    import json
    import time

    timings = finding.get("configs_timings") or {}
    fields = {
        "v": 1,
        "at": round(time.time(), 3),
        "function": _function_name(finding.get("fn")),
        "key": [value if isinstance(value, int | str) else str(value) for value in finding.get("key") or ()],
        "best": _settings(finding.get("best_config")),
        # Median, 20th and 80th percentile in milliseconds; null for what failed.
        "timings": [[_settings(config), _numbers(times)] for config, times in timings.items()],
        "seconds": finding.get("duration"),
        "cache_hit": bool(finding.get("cache_hit")),
        "triton": _version("triton"),
        "device": _device(),
    }
    line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    if len(line) > LONGEST_LINE:
        fields["timings"] = []
        line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    return line


def _append(path: str, line: bytes) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    # One write to a file opened for appending: lines of several processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if len(line) <= LONGEST_LINE and os.fstat(descriptor).st_size + len(line) <= LARGEST_BYTES:
            os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _function_name(fn: Any) -> str:
    function = getattr(fn, "fn", fn)
    module = getattr(function, "__module__", None)
    name = getattr(function, "__name__", None) or str(function)
    return f"{module}.{name}" if module else name


def _settings(config: Any) -> dict[str, Any]:
    from autotune.lookup.tuned import OPTIONS

    options = {name: getattr(config, name, None) for name in OPTIONS}
    known = {**getattr(config, "kwargs", {}), **{k: v for k, v in options.items() if v is not None}}
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in known.items()}


def _numbers(times: Any) -> list[float | None]:
    several = times if isinstance(times, list | tuple) else [times]
    return [float(value) if value == value and abs(value) != float("inf") else None for value in several]


def _version(module: str) -> str | None:
    import sys

    return getattr(sys.modules.get(module), "__version__", None)


def _device() -> str | None:
    """The current device's name, if torch is in use anyway."""
    import sys

    torch = sys.modules.get("torch")
    try:
        return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else None
    except Exception:  # a driver that is just going away
        return None
