"""What could keep autotune from working on this machine, each with its remedy, for `autotune doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.diagnosis.databases import database_findings
from autotune.diagnosis.devices import device_findings
from autotune.diagnosis.finding import Finding
from autotune.diagnosis.folders import folder_findings
from autotune.diagnosis.service import service_findings
from autotune.diagnosis.software import software_findings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Finding", "diagnose"]


def diagnose() -> Iterator[Finding]:
    """Everything that is looked at, from what the rest builds on."""
    yield from software_findings()
    yield from device_findings()
    yield from folder_findings()
    yield from database_findings()
    yield from service_findings()
