"""What `autotune status` and `autotune requests` are told."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import autotune
from autotune import paths

if TYPE_CHECKING:
    from autotune.daemon.lease import Lease
    from autotune.daemon.service import Service
    from autotune.daemon.supervisor import Supervisor

MOST_LISTED = 20
"""Things to do that the status names; `autotune requests` names them all."""


def status_report(service: Service) -> dict[str, Any]:
    """How the daemon is, in types that JSON knows."""
    return {
        "version": autotune.__version__,
        "pid": os.getpid(),
        "uptime_seconds": service.uptime_seconds,
        "state_dir": paths.state_dir(),
        "devices": [_device(service, supervisor) for supervisor in service.supervisors.values()],
        "leases": [_lease(lease) for lease in service.leases],
        "requests": len(service.book),
        "last_error": service.last_error or None,
        "fleet": service.fleet.report(),
    }


def requests_report(service: Service) -> dict[str, Any]:
    """What waits, in the order in which it is worked on, and the requests themselves."""
    now, half_life = time.time(), service.settings.requests.half_life_days
    return {
        "agenda": [
            item for supervisor in service.supervisors.values() for item in _agenda(service, supervisor)
        ],
        "requests": [
            {
                "device": entry.device,
                "workload": entry.workload,
                "problem": entry.dimensions,
                "objective": entry.objective,
                "max_error": entry.max_error,
                "asked": entry.asked,
                "weight": entry.aged(now, half_life),
                "first_at": entry.first_at,
                "last_at": entry.last_at,
                "match": entry.match,
                "operator": entry.operator,
                "failures": entry.failures,
                "failure": entry.failure or None,
                "retry_at": entry.retry_at or None,
            }
            for entry in service.book
        ],
    }


def _device(service: Service, supervisor: Supervisor) -> dict[str, Any]:
    gate = supervisor.gate
    return {
        "device": supervisor.name,
        "name": supervisor.device.name,
        "digest": supervisor.device.digest,
        "stack": supervisor.stack,
        "state": supervisor.state.value,
        "since": supervisor.since,
        "reason": supervisor.reason,
        "looks": {"held": min(gate.held, gate.needed), "needed": gate.needed},
        "conditions": [
            {"condition": one.name, "holds": one.holds, "told": one.told} for one in gate.conditions
        ],
        "study": _study(supervisor),
        "agenda": _agenda(service, supervisor)[:MOST_LISTED],
    }


def _study(supervisor: Supervisor) -> dict[str, Any] | None:
    if supervisor.item is None:
        return None
    work, now = supervisor.item.work, supervisor.progress
    told: dict[str, Any] = {"why": work.kind, "workload": work.workload, "problem": work.dimensions}
    if now is not None:
        told |= {
            "phase": now.phase,
            "tried": now.tried,
            "possible": now.possible,
            "best_ns": now.best_ns,
            "speedup": now.speedup,
            "trying": now.trying,
        }
    return told


def _agenda(service: Service, supervisor: Supervisor) -> list[dict[str, Any]]:
    return [
        {
            "device": supervisor.name,
            "why": item.work.kind,
            "workload": item.work.workload,
            "problem": item.work.dimensions,
            "value": item.value,
            "seconds": item.work.seconds,
        }
        for item in service.agenda.items(supervisor)
    ]


def _lease(lease: Lease) -> dict[str, Any]:
    return {
        "lease": lease.id,
        "device": lease.device,
        "user": lease.user,
        "reason": lease.reason,
        "since": lease.since,
        "seconds_left": lease.seconds_left(),
        "process": lease.holder.pid if lease.holder else None,
    }
