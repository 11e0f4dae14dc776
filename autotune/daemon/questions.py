"""Answering what is asked over the control socket."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from autotune import paths
from autotune.daemon import control
from autotune.daemon.lease import ALL
from autotune.daemon.report import requests_report, status_report
from autotune.daemon.vacancy import Vacancy
from autotune.errors import StateDirError, UnknownNameError, UsageError
from autotune.store.rollback import rollback
from autotune.store.snapshot import pin, unpin

if TYPE_CHECKING:
    from autotune.daemon.control_server import Connection
    from autotune.daemon.lease import Lease
    from autotune.daemon.service import Service
    from autotune.daemon.supervisor import Supervisor

logger = logging.getLogger("autotune.daemon")


class Questions:
    """Answers questions.

    Args:
        service: that they are about.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def handle(self, question: control.Question, connection: Connection) -> None:
        """Answer a question, now or later.

        Raises:
            AutotuneError: it is refused.
        """
        match question:
            case control.Status():
                connection.answer(status_report(self._service))
            case control.Requests():
                connection.answer(requests_report(self._service))
            case control.Pause():
                self._pause(question, connection)
            case control.Resume():
                connection.answer({"ended": [lease.id for lease in self._resume(question)]})
            case control.Ask():
                connection.answer({"asked": self._ask(question)})
            case control.Rollback():
                connection.answer({"generation": self._roll_back(question, connection)})
            case control.Pin():
                self._pin(question, connection)
                connection.answer({"generation": question.generation})
            case control.TakeBundle() | control.ForgetBundle() | control.KeepImports():
                _check_ours(question.state_dir)
                self._service.intake.begin(question, connection)

    def _pause(self, question: control.Pause, connection: Connection) -> None:
        covered = self._covered(question.device)
        if question.seconds is not None and not question.seconds > 0:
            raise UsageError(f"a lease of {question.seconds:g} s; expected more than none")
        peer = connection.peer
        lease = self._service.leases.take(
            question.device,
            user=peer.user,
            reason=question.reason,
            seconds=question.seconds,
            holder=peer.pid if question.held else None,
        )
        told = {"lease": lease.id, "device": lease.device, "user": peer.user, "why": lease.reason}
        logger.info("lease taken", extra=told)

        def answer(left: dict[str, str]) -> None:
            if left:
                logger.warning(
                    "a leased device is not free", extra={**told, "left": "; ".join(left.values())}
                )
            connection.answer({"lease": lease.id, "device": lease.device, "left": left})

        waited_for = covered if question.wait else []
        Vacancy(self._service.loop, waited_for, answer, self._service.settings.gate.free_seconds)

    def _resume(self, question: control.Resume) -> list[Lease]:
        leases, lease = self._service.leases, question.lease
        if lease is not None:
            if not any(held.id == lease for held in leases):
                raise UnknownNameError("lease", lease, [held.id for held in leases])
            return leases.release([lease])
        if question.device is not None:
            self._covered(question.device)
        # What a process holds ends with it, not with the next `resume` that somebody types.
        loose = [held for held in leases if held.holder is None]
        meant = [
            held.id
            for held in loose
            if question.device in (None, held.device) and question.reason in (None, held.reason)
        ]
        return leases.release(meant)

    def _covered(self, device: str) -> list[Supervisor]:
        supervisors = self._service.supervisors
        if device != ALL and device not in supervisors:
            raise UnknownNameError("device of the daemon", device, [ALL, *supervisors])
        return [one for one in supervisors.values() if device in (ALL, one.name)]

    def _ask(self, question: control.Ask) -> int:
        """Note what an operator wants tuned: on the CPU, as the command line's own `tune` does.

        It is on the disk when this returns.
        """
        service = self._service
        supervisor = service.supervisors.get("cpu") or service.device_of(None)
        if supervisor is None:
            raise UsageError("the daemon has no device to tune on; see [daemon] devices")
        for wanted in question.problems:
            service.agenda.note_order(supervisor, wanted, question)
        supervisor.forgive()
        supervisor.step()
        service.wake(supervisor)
        service.book_keeping.save()
        return len(question.problems)

    def _roll_back(self, question: control.Rollback, connection: Connection) -> int:
        """Publish an earlier generation again; what it withdraws is tuned again when that is due."""
        _check_ours(question.state_dir)
        archive = self._service.archive
        try:
            number = rollback(archive.require(), question.generation, question.reason)
        except StateDirError as error:
            archive.unwritten(error)
            raise
        told = {"generation": number, "user": connection.peer.user, "why": question.reason}
        logger.info("rolled back", extra=told)
        self._service.history_renewed()
        return number

    def _pin(self, question: control.Pin, connection: Connection) -> None:
        """Keep a generation for good, or let it go."""
        _check_ours(question.state_dir)
        archive = self._service.archive
        try:
            if question.reason is None:
                unpin(archive.require(), question.generation)
            else:
                pin(archive.require(), question.generation, question.reason)
        except StateDirError as error:
            archive.unwritten(error)
            raise
        done = "unpinned" if question.reason is None else "pinned"
        told = {"generation": question.generation, "user": connection.peer.user, "why": question.reason or ""}
        logger.info("generation %s", done, extra=told)


def _check_ours(state_dir: str) -> None:
    ours = os.path.realpath(paths.state_dir())
    if os.path.realpath(state_dir) != ours:
        raise UsageError(f"the daemon keeps the history in {ours}, not the one in {state_dir}")
