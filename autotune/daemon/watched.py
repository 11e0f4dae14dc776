"""Which devices the daemon cares for, and how each is looked at."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from autotune.daemon.calendar import Windows
from autotune.daemon.cpu_probe import CpuProbe
from autotune.daemon.gate import Gate
from autotune.daemon.nvidia_probe import NvidiaProbe, Patient
from autotune.daemon.supervisor import Supervisor
from autotune.errors import ConfigError, suggestion
from autotune.fingerprint import probe

if TYPE_CHECKING:
    from autotune.config import GateSettings, Settings
    from autotune.daemon.gate import Probe
    from autotune.daemon.supervisor import Office
    from autotune.fingerprint import Device, Fingerprint

logger = logging.getLogger("autotune.daemon")

PROBE_SECONDS = 10.0
"""How long the host's devices are waited for: a driver may hang."""


def watched_devices(settings: Settings, office: Office) -> tuple[list[Device], list[Supervisor]]:
    """All devices of this host, and those that the settings name under care.

    Raises:
        ConfigError: the settings name a device that this host does not have.
    """
    found = _patient_probe()
    for problem in found.problems:
        logger.info("%s", problem)
    by_name = {name_of(device): device for device in found.devices}
    for name in settings.daemon.devices:
        if name not in by_name:
            raise ConfigError(f"daemon.devices: this host has no {name!r}{suggestion(name, by_name)}")
    chosen = settings.daemon.devices or tuple(by_name)
    return list(found.devices), [_supervised(name, by_name[name], settings, office) for name in chosen]


def name_of(device: Device) -> str:
    """`cpu`, or e.g. `cuda:1`."""
    return device.kind if device.kind == "cpu" else f"{device.kind}:{device.index}"


def probe_of(device: Device, settings: GateSettings) -> Probe:
    """What looks at a device."""
    if device.kind == "cpu":
        return CpuProbe(settings)
    return Patient(NvidiaProbe(device.index, settings, kind=device.kind))


def _supervised(name: str, device: Device, settings: Settings, office: Office) -> Supervisor:
    gate = Gate(probe_of(device, settings.gate), Windows.of(settings.gate), settings.gate.looks)
    return Supervisor(name, device, gate, settings, office)


def _patient_probe() -> Fingerprint:
    """The host's devices; those of a driver that does not answer are left out."""
    answers: list[Fingerprint] = []
    asking = threading.Thread(target=lambda: answers.append(probe()), name="fingerprint", daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS)
    return answers[0] if answers else probe(nvml=_Silent())


class _Silent:
    """In place of an NVML that hangs."""

    NVML_CLOCK_SM = NVML_CLOCK_MEM = 0

    def __getattr__(self, name: str) -> Any:
        def ask(*_: Any) -> Any:
            raise TimeoutError(f"no answer within {PROBE_SECONDS:g} s; the driver hangs")

        return ask
