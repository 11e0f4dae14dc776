"""The history as a study process sees it: it reads by itself, and the daemon writes for it.

The daemon is the one writer. A study process that wrote to the history itself would need the lock handed over
and handed back, and a lock that changes hands between processes which are killed at any moment is a second
writer waiting to happen. So each record travels as one frame, and the study goes on when the daemon has
answered that it is durable. Then a kill is harmless whenever it comes:

- of the study process: the daemon has either the whole frame, and keeps the record, or none of it;
- of the daemon: nothing unanswered counted, and the study process dies with it.

Reading needs no such care: under a write-ahead log any process may read beside the writer, and sees what was
answered to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from autotune.daemon import messages
from autotune.daemon.channel import Channel
from autotune.errors import InternalError, StateError
from autotune.store.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.fingerprint.fingerprint import Device
    from autotune.store.reading import HistoryReader
    from autotune.store.records import StudyKey, Trial, Winner


StudyChannel: TypeAlias = "Channel[messages.FromStudy, messages.ToStudy]"


def study_channel(descriptor: int) -> StudyChannel:
    """The study process's end of its socket to the daemon."""
    return Channel(descriptor, messages.encode, messages.decode_to_study)


class RemoteHistory(Recorder):
    """A history whose records the daemon keeps.

    Args:
        reader: to read by; closed with this history.
        channel: to the daemon.
    """

    def __init__(self, reader: HistoryReader, channel: StudyChannel) -> None:
        super().__init__(reader.connection, reader.state)
        self._channel = channel

    def record_device(self, device: Device) -> None:
        """Record one device."""
        self._keep(messages.RecordDevice(device))

    def record_stack(self, digest: str, facts: Mapping[str, Any]) -> None:
        """Record a software stack."""
        self._keep(messages.RecordStack(digest, dict(facts)))

    def begin_study(
        self,
        key: StudyKey,
        dimensions: Mapping[str, int | str],
        *,
        seed: int = 0,
        space_facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Start a study, or take up the earlier one with the same key."""
        return self._keep(messages.BeginStudy(key, dict(dimensions), seed, dict(space_facts or {})))

    def add_trial(self, study_id: int, trial: Trial) -> int:
        """Record a trial that has ended; returns its number."""
        return self._keep(messages.AddTrial(study_id, trial))

    def end_study(self, study_id: int, reason: str) -> None:
        """Record that a study has ended."""
        self._keep(messages.EndStudy(study_id, reason))

    def promote(self, study_id: int, winner: Winner) -> int:
        """Make a winner the current one."""
        return self._keep(messages.Promote(study_id, winner))

    def publish(self, reason: str) -> int:
        """Publish all current winners."""
        return self._keep(messages.Publish(reason))

    def _keep(self, record: messages.Record) -> int:
        """Have the daemon keep a record.

        Raises:
            StateError: it could not.
        """
        self._channel.tell(record)
        match self._channel.hear():
            case messages.Kept(number):
                return number
            case messages.NotKept(reason):
                raise StateError(reason)
            case other:
                raise InternalError(f"the daemon answered {type(other).__name__}; expected Kept or NotKept")
