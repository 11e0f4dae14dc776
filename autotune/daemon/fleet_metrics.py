"""What Prometheus reads of the fleet; exposed by nodes alone that are to be in one.

autotune_fleet_connected                              1 where the last exchange succeeded
autotune_fleet_last_exchange_timestamp_seconds        when one last succeeded; 0 before the first
autotune_fleet_exchanges_total{result}                ok, failed
autotune_fleet_outbox_entries                         entries that the fleet has not received
autotune_fleet_unverified_winners                     winners of other nodes that are served and not verified
autotune_fleet_entries_total{direction,kind}          sent, received; winner, refutation, ...
autotune_fleet_rejected_entries_total                 received, not right, and so not used
autotune_fleet_slowdown_ratio                         of this node, over the median of its equals
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import prometheus_client as prometheus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.daemon.fleet_messages import Told
    from autotune.store.fleet import Entry, Summary

KINDS = {
    "sent": ("winner", "refutation", "verification", "request"),
    "received": ("winner", "refutation", "request"),
}
"""What travels each way: that a winner holds is read by nobody but who looks at the fleet as a whole."""


class FleetMetrics:
    """Counts what goes over the wire. No method raises, and all may be called from any thread.

    Args:
        registry: of the daemon's metrics; nothing is added before the first call of `expose`: a node without
            a fleet is not one that has lost it.
    """

    def __init__(self, registry: prometheus.CollectorRegistry) -> None:
        self._all = registry
        self._registry = prometheus.CollectorRegistry()
        self._exposed = False
        self._connected = self._gauge("connected", "Whether the last exchange succeeded.")
        self._at = self._gauge("last_exchange_timestamp_seconds", "When an exchange last succeeded.")
        self._outbox = self._gauge("outbox_entries", "Entries that the fleet has not received.")
        self._unverified = self._gauge(
            "unverified_winners", "Winners of other nodes that are served and not verified here."
        )
        self._slowdown = self._gauge(
            "slowdown_ratio", "Latency of this node's baselines over the median of its equals."
        )
        self._slowdown.set(float("nan"))
        self._exchanges = self._counter("exchanges", "Exchanges by how they ended.", "result")
        self._entries = self._counter("entries", "Entries exchanged.", "direction", "kind")
        self._rejected = self._counter("rejected_entries", "Entries received that were not right.")
        # A counter that begins at one has no increase: all are there from the start.
        for result in ("ok", "failed"):
            self._exchanges.labels(result)
        for direction, kinds in KINDS.items():
            for kind in kinds:
                self._entries.labels(direction, kind)

    def expose(self, exposed: bool) -> None:
        """A fleet is configured, or no longer."""
        if exposed == self._exposed:
            return
        self._exposed = exposed
        if exposed:
            self._all.register(self._registry)
        else:
            self._all.unregister(self._registry)

    def exchanged(self, told: Told, at: float) -> None:
        """An exchange has ended.

        Args:
            told: how.
            at: seconds since the epoch.
        """
        self._connected.set(not told.failure)
        self._exchanges.labels("failed" if told.failure else "ok").inc()
        self._rejected.inc(told.rejected)
        if not told.failure:
            self._at.set(at)
        if told.slowdown is not None:
            self._slowdown.set(told.slowdown)

    def stands(self, numbers: Summary) -> None:
        """So much waits to be sent, and to be verified."""
        self._outbox.set(numbers.waiting)
        self._unverified.set(numbers.unverified)

    def sent(self, kinds: Iterable[str]) -> None:
        """The fleet has received entries of these kinds."""
        for kind in kinds:
            self._entries.labels("sent", kind).inc()

    def received(self, entries: Iterable[Entry], node: str) -> None:
        """These came and are new; a node reads its own ones too, which are not counted.

        Args:
            entries: found right.
            node: this one.
        """
        for entry in entries:
            if entry.node != node:
                self._entries.labels("received", entry.kind).inc()

    def lost(self) -> None:
        """The fleet process has ended, or an exchange cannot begin."""
        self._connected.set(0)

    def _gauge(self, name: str, text: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"autotune_fleet_{name}", text, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus.Counter:
        return prometheus.Counter(f"autotune_fleet_{name}", text, labels, registry=self._registry)
