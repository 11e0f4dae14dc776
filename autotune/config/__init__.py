"""Settings: what the operator decided, from TOML files, typed and checked.

    /etc/autotune/config.toml, /etc/autotune/config.d/*.toml in order of name, then the user's
    $XDG_CONFIG_HOME/autotune/config.toml; where two set the same key the later one holds

`AUTOTUNE_CONFIG` names a file, or a folder laid out like /etc/autotune, that is read instead of them all; the
system's service sets it. Look-ups never read settings.
"""

from __future__ import annotations

from autotune.config.files import Settings, check_file, load_settings, settings_files
from autotune.config.sections import (
    DaemonSettings,
    FleetSettings,
    GateSettings,
    Limits,
    MeasureSettings,
    MetricsSettings,
    ModelPlan,
    RequestSettings,
    RetentionSettings,
    StudySettings,
    WebSettings,
    Window,
    WorkerSettings,
)

__all__ = [
    "DaemonSettings",
    "FleetSettings",
    "GateSettings",
    "Limits",
    "MeasureSettings",
    "MetricsSettings",
    "ModelPlan",
    "RequestSettings",
    "RetentionSettings",
    "Settings",
    "StudySettings",
    "WebSettings",
    "Window",
    "WorkerSettings",
    "check_file",
    "load_settings",
    "settings_files",
]
