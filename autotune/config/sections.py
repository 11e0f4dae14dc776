"""The sections of the settings: each class is a table of the file, each field a key with its bounds."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Days = Annotated[float, Meta(gt=0, le=36_500)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; each field is a key."""


class Limits(Section, frozen=True):
    """`[worker.limits]`: seconds after which a stage of a trial counts as hung.

    Attributes:
        start: from the interpreter's start until everything is imported.
        prepare: making weights, activations and references.
        build: packing, compiling and the first call.
        check: two calls and their comparison with the reference.
        measure: beyond the budget of a measurement or comparison.
    """

    start: Seconds = 120.0
    prepare: Seconds = 120.0
    build: Seconds = 120.0
    check: Seconds = 60.0
    measure: Seconds = 60.0


class WorkerSettings(Section, frozen=True):
    """`[worker]`: the process that runs trials.

    Attributes:
        python: interpreter of the environment that serves; empty for the one that runs autotune.
        memory_bytes: cap of its memory, in bytes or as a share of the device's such as `60%`.
        modules: modules, or full paths of `.py` files, that are imported first; they register workloads.
        limits: seconds per stage.
    """

    python: str = ""
    memory_bytes: Annotated[int, Meta(ge=2**28, le=2**50)] | str = "60%"
    modules: tuple[str, ...] = ()
    limits: Limits = Limits()

    @property
    def interpreter(self) -> str:
        """The interpreter that the worker runs."""
        return self.python or sys.executable

    def memory_limit(self, device_bytes: int) -> int:
        """The cap in bytes, on a device with `device_bytes` of memory."""
        if isinstance(self.memory_bytes, int):
            return self.memory_bytes
        return device_bytes * int(self.memory_bytes.removesuffix("%")) // 100


class MeasureSettings(Section, frozen=True):
    """`[measure]`: how configurations are screened and a winner is decided.

    Attributes:
        margin: share by which a challenger must be faster beyond doubt.
        confidence: that no configuration is promoted that is not faster.
        screen_seconds: longest sampling of one configuration while searching.
        final_share: share of a study's budget for the interleaved comparison and the winner's re-measurement.
    """

    margin: Annotated[float, Meta(ge=0, le=0.5)] = 0.01
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] = 0.99
    screen_seconds: Seconds = 0.5
    final_share: Annotated[float, Meta(ge=0.05, le=0.9)] = 0.35


class StudySettings(Section, frozen=True):
    """`[study]`: when a search ends.

    Attributes:
        trials: most configurations tried for one problem; None, the default, for no limit.
        budget_seconds: most time spent on one problem, the decision included.
    """

    trials: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    budget_seconds: Seconds = 60.0


class ModelPlan(Section, frozen=True):
    """`[[daemon.models]]`: a model whose problems are tuned in the background, as `tune --model` would.

    Attributes:
        name: a shipped one, or the full path of a Hugging Face `config.json`.
        tp: ranks that share attention and dense layers.
        ep: ranks that the routed experts are dealt to.
        batch: sequences per decode step.
        context: tokens that each sequence attends to.
        phase: `decode`, `prefill`, or `decode,prefill`.
    """

    name: Annotated[str, Meta(min_length=1)]
    tp: Annotated[int, Meta(ge=1, le=4096)] = 1
    ep: Annotated[int, Meta(ge=1, le=4096)] = 1
    batch: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)] = (1, 16, 64)
    context: Annotated[int, Meta(ge=1)] = 4096
    phase: Literal["decode", "prefill", "decode,prefill"] = "decode"


class DaemonSettings(Section, frozen=True):
    """`[daemon]`: the service that tunes in the background.

    Attributes:
        devices: what it tunes on, such as `cpu` or `cuda:1`; empty for every device of this host.
        models: what it tunes when nothing was requested.
        group: whose members may pause, resume and lease; where it does not exist, the service's own group.
        recheck_days: age at which a winner is measured again, and withdrawn if it no longer wins; 0: never.
        retry_seconds: wait after a study that failed; doubled each time, up to a day.
        log_level: the least severe messages that are logged.
    """

    devices: tuple[str, ...] = ()
    models: tuple[ModelPlan, ...] = ()
    group: Annotated[str, Meta(min_length=1, max_length=64)] = "autotune"
    recheck_days: Annotated[float, Meta(ge=0, le=36_500)] = 7.0
    retry_seconds: Seconds = 600.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Window(Section, frozen=True):
    """`[[gate.windows]]`: hours in which tuning is allowed.

    Attributes:
        start: when it opens: a cron expression such as `0 22 * * mon-fri`.
        hours: for how long it stays open.
    """

    start: str
    hours: Annotated[float, Meta(gt=0, le=168)]


class GateSettings(Section, frozen=True):
    """`[gate]`: when a device counts as idle. All conditions must hold.

    Attributes:
        looks: looks in a row that must find a device idle before anything is tuned on it.
        look_seconds: time between two looks while work waits.
        watch_seconds: time between two looks while something is tuned.
        free_seconds: how long 'pause --wait' and 'lease' wait at most for a device to be free of the daemon.
        others_cpu: share of the cores that other processes may use.
        others_running: threads of others that may wait for a core, per core.
        memory_available: share of the host's memory that must be free before a study starts.
        idle_memory_bytes: memory of a GPU that may be in use while it is idle: the driver's own.
        temperature_c: a device that is hotter counts as busy.
        power_watts: budget of all GPUs together, with what the device to be tuned may add; None for none.
        time_zone: of the windows, such as `Europe/Berlin`.
        windows: when tuning is allowed; at any time if there is none.
    """

    looks: Annotated[int, Meta(ge=1, le=100)] = 3
    look_seconds: Annotated[float, Meta(ge=0.05, le=600)] = 5.0
    watch_seconds: Annotated[float, Meta(ge=0.05, le=60)] = 0.5
    free_seconds: Annotated[float, Meta(ge=0.05, le=600)] = 10.0
    others_cpu: Share = 0.15
    others_running: Annotated[float, Meta(ge=0, le=1000)] = 0.5
    memory_available: Share = 0.2
    idle_memory_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 2**30
    temperature_c: Annotated[float, Meta(gt=0, le=150)] = 80.0
    power_watts: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    time_zone: str = "UTC"
    windows: tuple[Window, ...] = ()


class RequestSettings(Section, frozen=True):
    """`[requests]`: look-ups that found nothing exact, which any local user may send.

    Attributes:
        most: different requests that are remembered; the least valuable go first.
        per_second: requests that are taken from one user on average; more are dropped and counted.
        burst: requests that one user may send at once.
        half_life_days: after which an ask counts half.
    """

    most: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    per_second: Annotated[float, Meta(gt=0, le=1e6)] = 20.0
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    half_life_days: Days = 7.0


class MetricsSettings(Section, frozen=True):
    """`[metrics]`: what Prometheus reads.

    Attributes:
        address: loopback address and port of `/metrics`, `/healthz` and `/readyz`; empty for none.
        textfile: file ending in `.prom` for node_exporter's textfile collector; empty for none.
        textfile_seconds: how often it is written.
    """

    address: str = "127.0.0.1:9719"
    textfile: str = ""
    textfile_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0


class WebSettings(Section, frozen=True):
    """`[web]`: the site that the daemon serves over its history, read-only.

    Attributes:
        address: loopback address and port such as `127.0.0.1:9720`; empty, the default, for none.
    """

    address: str = ""


class RetentionSettings(Section, frozen=True):
    """`[retention]`: what is kept of the history, and when it is looked after.

    A study whose decision holds is kept for good, with all its trials.

    Attributes:
        nightly: when the history is checked, backed up and shortened: a cron expression, in the gate's zone.
        studies_days: age at which other studies are forgotten, with their trials and decisions.
        events_days: age at which events are forgotten.
        backups: backups that are kept.
    """

    nightly: str = "30 3 * * *"
    studies_days: Days = 365.0
    events_days: Days = 365.0
    backups: Annotated[int, Meta(ge=1, le=1000)] = 7


class FleetSettings(Section, frozen=True):
    """`[fleet]`: the database through which equal nodes share what they found; extra `autotune[fleet]`.

    Attributes:
        url: `postgresql+psycopg://user@host:port/database`, without a password; empty for no fleet.
        password_file: full path of the file that holds the password, which only its owner may read; empty for
            systemd's credential `fleet-password`, or none.
        tls: what a connection must be sure of. `auto`: on loopback and Unix sockets nothing, elsewhere
            `verify-full`, the server's certificate and name.
        ca_file: full path of the certificates that are trusted; empty for the system's.
        name: of this node, for people; empty for the host's.
        poll_seconds: between two exchanges, give or take half, so that nodes do not come all at once.
        serve_unverified: whether look-ups find what the fleet proved before this node has verified it.
        studies: whether equal nodes search the same problem together.
        relay: full path of the socket of `autotune fleet relay`, through which many processes of a host
            search over few connections; empty: each connects by itself.
        heartbeat_seconds: between two signs of life of a node that searches; after four or five that did not
            come, another one takes its trial.
    """

    url: str = ""
    password_file: str = ""
    tls: Literal["auto", "verify-full", "verify-ca", "require", "off"] = "auto"
    ca_file: str = ""
    name: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    poll_seconds: Annotated[float, Meta(ge=0.1, le=86_400)] = 60.0
    serve_unverified: bool = True
    studies: bool = True
    relay: Annotated[str, Meta(pattern=r"^(/.+)?$", max_length=100)] = ""
    heartbeat_seconds: Annotated[int, Meta(ge=1, le=3600)] = 10


class Sections(Section, frozen=True):
    """The whole file."""

    worker: WorkerSettings = WorkerSettings()
    measure: MeasureSettings = MeasureSettings()
    study: StudySettings = StudySettings()
    daemon: DaemonSettings = DaemonSettings()
    gate: GateSettings = GateSettings()
    requests: RequestSettings = RequestSettings()
    metrics: MetricsSettings = MetricsSettings()
    web: WebSettings = WebSettings()
    retention: RetentionSettings = RetentionSettings()
    fleet: FleetSettings = FleetSettings()
