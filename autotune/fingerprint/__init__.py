"""The fingerprint: facts of devices and software, and the digests made of them."""

from __future__ import annotations

from autotune.lazy import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotune.fingerprint.ceilings import Ceilings
    from autotune.fingerprint.fingerprint import Device, Fingerprint, device_named, named_device, probe
    from autotune.fingerprint.profile import Profile, load_profiles, profile_for

__all__ = [
    "Ceilings",
    "Device",
    "Fingerprint",
    "Profile",
    "device_named",
    "load_profiles",
    "named_device",
    "probe",
    "profile_for",
]

_HOMES = {
    "Ceilings": "ceilings",
    "Device": "fingerprint",
    "Fingerprint": "fingerprint",
    "Profile": "profile",
    "device_named": "fingerprint",
    "load_profiles": "profile",
    "named_device": "fingerprint",
    "probe": "fingerprint",
    "profile_for": "profile",
}

__getattr__ = attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
