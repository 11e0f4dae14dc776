"""What the daemon did and how it is, as Prometheus reads it: over loopback HTTP, or from a text file.

autotune_device_state{device,state}               1 for the state that a device is in
autotune_trials_total{device,verdict}
autotune_decisions_total{device,decision}         promoted, confirmed, baseline_kept, withdrawn
autotune_studies_total{device,ending}
autotune_device_tuning_seconds_total{device}      time for which the device was used
autotune_yield_seconds{device,cause}              histogram: from the sign to the worker gone
autotune_requests_total{result,match}             autotune_requests_waiting
autotune_leases                                   autotune_disk_full
autotune_errors_total                             autotune_last_error_timestamp_seconds
autotune_last_error_info{message}                 autotune_build_info{version}
autotune_fleet_...                                see `fleet_metrics`
process_...                                       memory, CPU time, open files of the main process
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import prometheus_client as prometheus

import autotune
from autotune.daemon.exposition import Server, TextfileWriter
from autotune.daemon.fleet_metrics import FleetMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import MetricsSettings
    from autotune.daemon.exposition import Health

logger = logging.getLogger("autotune.daemon")

YIELD_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Finest below the quarter of a second within which a lease is meant to be granted."""

LONGEST_MESSAGE = 200


class Metrics:
    """Everything that is counted. No method raises, and all may be called from any thread.

    Attributes:
        fleet: what is exchanged with other nodes.
    """

    def __init__(self) -> None:
        # Since when each series exists would double their number, and Prometheus does not need it.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs has no types
        self._registry = prometheus.CollectorRegistry()
        self._states: dict[str, str] = {}
        self._exposures: list[Server | TextfileWriter] = []
        self._device_state = self._gauge("device_state", "Which state a device is in.", "device", "state")
        self._trials = self._counter("trials", "Trials that ended.", "device", "verdict")
        self._decisions = self._counter("decisions", "Decisions of studies.", "device", "decision")
        self._studies = self._counter("studies", "Studies that ended.", "device", "ending")
        self._tuning = self._counter("device_tuning_seconds", "Time for which a device was used.", "device")
        self._requests = self._counter("requests", "Requests by their fate.", "result", "match")
        self._waiting = self._gauge("requests_waiting", "Requests that are yet to be tuned.")
        self._leases = self._gauge("leases", "Leases that are held.")
        self._disk_full = self._gauge("disk_full", "Whether the disk of the state folder is full.")
        self._errors = self._counter("errors", "Errors that were logged.")
        self._last_error_at = self._gauge("last_error_timestamp_seconds", "When the last error was logged.")
        self._last_error = prometheus.Info("autotune_last_error", "The last error.", registry=self._registry)
        self._yields = prometheus.Histogram(
            "autotune_yield_seconds",
            "From the sign that a device is wanted until the worker was gone.",
            ["device", "cause"],
            buckets=YIELD_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self.fleet = FleetMetrics(self._registry)
        build = prometheus.Info("autotune_build", "The version that runs.", registry=self._registry)
        build.info({"version": autotune.__version__})

    def device_state(self, device: str, state: str) -> None:
        """A device is now in this state, and in no other."""
        before = self._states.get(device)
        if before is not None and before != state:
            self._device_state.labels(device, before).set(0)
        self._states[device] = state
        self._device_state.labels(device, state).set(1)

    def trial(self, device: str, verdict: str) -> None:
        """A trial has ended."""
        self._trials.labels(device, verdict).inc()

    def decision(self, device: str, kind: str) -> None:
        """A winner was `promoted`, `confirmed` or `withdrawn`, or the baseline was kept: `baseline_kept`."""
        self._decisions.labels(device, kind).inc()

    def study(self, device: str, ending: str, seconds: float) -> None:
        """A study has ended and used the device for so long."""
        self._studies.labels(device, ending).inc()
        self._tuning.labels(device).inc(max(seconds, 0.0))

    def request(self, result: str, match: str) -> None:
        """A datagram came in: what became of it, and how the look-up behind it had ended."""
        self._requests.labels(result, match).inc()

    def requests_waiting(self, count: int) -> None:
        """So many requests are yet to be tuned."""
        self._waiting.set(count)

    def yielded(self, device: str, cause: str, seconds: float) -> None:
        """A device was given up, so long after the sign."""
        self._yields.labels(device, cause).observe(max(seconds, 0.0))

    def leases(self, count: int) -> None:
        """So many leases are held."""
        self._leases.set(count)

    def disk_full(self, full: bool) -> None:
        """Whether the history can be written."""
        self._disk_full.set(full)

    def error(self, message: str) -> None:
        """An error was logged."""
        self._errors.inc()
        self._last_error_at.set(time.time())
        self._last_error.info({"message": " ".join(message.split())[:LONGEST_MESSAGE]})

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)

    def start(self, settings: MetricsSettings, health: Callable[[], Health]) -> None:
        """Begin to serve and write what the settings say, in place of what was before.

        Args:
            settings: where.
            health: what `/healthz` and `/readyz` tell; called from another thread.
        """
        self.stop()
        if settings.address:
            try:
                self._exposures.append(Server(settings.address, self._text_with_process(), health))
            except OSError as error:
                logger.error(
                    "metrics.address %s cannot be used: %s; choose another port",
                    settings.address,
                    error.strerror,
                )
        if settings.textfile:
            self._exposures.append(TextfileWriter(settings.textfile, settings.textfile_seconds, self.text))

    def stop(self) -> None:
        """End serving, and remove the text file: it would tell of a daemon that is no more."""
        for exposure in self._exposures:
            exposure.close()
        self._exposures.clear()

    def _text_with_process(self) -> Callable[[], bytes]:
        """What is served; a text file leaves out what the collector beside it knows of every process."""
        process = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=process)
        return lambda: self.text() + prometheus.generate_latest(process)

    def _gauge(self, name: str, text: str, *labels: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"autotune_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus.Counter:
        return prometheus.Counter(f"autotune_{name}", text, labels, registry=self._registry)
