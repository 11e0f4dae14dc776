"""Devices: what there is, and what keeps a GPU from being used."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

from autotune.daemon.installation import has_nvidia
from autotune.diagnosis.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.fingerprint import Fingerprint


def device_findings(root: str = "/") -> Iterator[Finding]:
    """Every device, and the NVIDIA driver.

    Args:
        root: of the file system, or of files made for a test.
    """
    from autotune.fingerprint import probe

    found = probe()
    for device in found.devices:
        yield Finding(f"{device.kind}:{device.index}", "ok", f"{device.name} ({device.family})")
    if has_nvidia(root):
        yield from _driver(found, root)
    else:
        for problem in found.problems:
            yield Finding("devices", "note", problem, "nothing to do on a machine without a GPU")


def _driver(found: Fingerprint, root: str) -> Iterator[Finding]:
    driver = next((device.facts.get("driver") for device in found.devices if device.kind == "cuda"), None)
    if driver:
        yield Finding("NVIDIA driver", "ok", str(driver))
    else:
        told = "; ".join(found.problems) or "lists no device"
        yield Finding(
            "NVIDIA driver", "fault", told, "install the driver and nvidia-ml-py; nvidia-smi must work"
        )
    if not os.path.exists(os.path.join(root, "dev/nvidia-uvm")):
        yield Finding(
            "nvidia-uvm", "fault", "/dev/nvidia-uvm is missing; CUDA needs it", "nvidia-modprobe -u -c=0"
        )
    for path in sorted(glob.glob(os.path.join(root, "dev/nvidia[0-9c-u]*"))):
        if not os.path.isdir(path) and not os.access(path, os.R_OK | os.W_OK):
            remedy = "join the group that owns it, such as video or render"
            yield Finding("GPU rights", "fault", f"{path} may not be used by you", remedy)
    if _mps_runs(root):
        yield Finding(
            "MPS",
            "note",
            "runs; one client's fault reaches all, so the daemon leaves these devices alone",
            "stop nvidia-cuda-mps-control to have them tuned",
        )


def _mps_runs(root: str) -> bool:
    for path in glob.glob(os.path.join(root, "proc/[0-9]*/comm")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                # The kernel keeps 15 characters of a name.
                if file.read().startswith("nvidia-cuda-mps"):
                    return True
        except OSError:  # it has ended
            continue
    return False
