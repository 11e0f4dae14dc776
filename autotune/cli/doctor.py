"""`autotune doctor`: what could keep autotune from working here, each with its remedy."""

from __future__ import annotations

from autotune.cli import options


def doctor(json: options.Json = False) -> int:
    """Look at versions, devices, folders, databases and the service; exits 1 if something does not work."""
    from autotune.cli import output
    from autotune.diagnosis import diagnose

    findings = list(diagnose())
    if json:
        output.print_json([finding._asdict() for finding in findings])
    else:
        table = output.table("", "subject", "found", "remedy")
        for finding in findings:
            table.add_row(finding.level, finding.subject, finding.found, finding.remedy)
        output.console.print(table)
    return 1 if any(finding.level == "fault" for finding in findings) else 0
