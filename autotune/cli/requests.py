"""`autotune requests`: what look-ups asked for, and what is tuned in which order."""

from __future__ import annotations

import time

from autotune.cli import options


def requests(json: options.Json = False, csv: options.Csv = False) -> None:
    """List what waits to be tuned, the next first, and the requests behind it; as CSV the requests alone."""
    from autotune.cli import output
    from autotune.cli.status import problem_text
    from autotune.daemon.control import Requests, ask

    told = ask(Requests())
    if json:
        output.print_json(told)
        return
    if csv:
        output.print_csv(told["requests"])
        return
    waiting = output.table("device", "problem", "why", "budget", right=("budget",))
    for item in told["agenda"]:
        waiting.add_row(item["device"], problem_text(item), item["why"], f"{item['seconds']:g} s")
    output.console.print(waiting)
    if told["requests"]:
        asked = output.table("problem", "asked", "last", "match", "state", right=("asked",))
        for entry in told["requests"]:
            asked.add_row(
                problem_text(entry),
                str(entry["asked"]),
                output.moment(entry["last_at"]),
                entry["match"],
                _state(entry["failure"], entry["retry_at"]),
            )
        output.console.print(asked)
    output.console.print(f"{len(told['agenda'])} to do, {len(told['requests'])} requests")


def _state(failure: str | None, retry_at: float | None) -> str:
    if failure is None:
        return "waits"
    left = max(0.0, (retry_at or 0.0) - time.time())
    return f"failed: {failure}; again in {left / 60:.0f} min"
