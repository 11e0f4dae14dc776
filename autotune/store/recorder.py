"""What a study needs of the history: to read it, and to have its records kept.

`History` keeps them itself. A study process of the daemon has them kept by the daemon, which is the writer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from autotune.store.reading import HistoryReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.fingerprint.fingerprint import Device
    from autotune.store.records import StudyKey, Trial, Winner


class Recorder(HistoryReader, ABC):
    """A history in which a study is recorded; what a method has returned from is durable.

    Every method raises `StateError` when the record cannot be kept: the disk is full, or fails.
    """

    @abstractmethod
    def record_device(self, device: Device) -> None:
        """Record one device; one with a negative index is not on this host."""

    @abstractmethod
    def record_stack(self, digest: str, facts: Mapping[str, Any]) -> None:
        """Record a software stack."""

    @abstractmethod
    def begin_study(
        self,
        key: StudyKey,
        dimensions: Mapping[str, int | str],
        *,
        seed: int = 0,
        space_facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Start a study, or take up the earlier one with the same key; returns its number.

        Equal devices may work on one study at once: it ends with the last of them.

        Args:
            key: whose device and stack were recorded before.
            dimensions: the problem's, in declared order.
            seed: of its random choices; a study that is resumed keeps the first.
            space_facts: what to remember of the search space, e.g. counts before and after constraints.
        """

    @abstractmethod
    def add_trial(self, study_id: int, trial: Trial) -> int:
        """Record a trial that has ended; returns its number.

        That is the trial's own, or the next that is free where several devices work on the study.
        """

    @abstractmethod
    def end_study(self, study_id: int, reason: str) -> None:
        """Record that a study has ended, and why."""

    @abstractmethod
    def promote(self, study_id: int, winner: Winner) -> int:
        """Make a winner the current one for its key, in place of the one before.

        Returns:
            The decision's number.

        Raises:
            InternalError: the winner is not this study's, or lacks its rank 0.
        """

    @abstractmethod
    def publish(self, reason: str) -> int:
        """Publish all current winners to look-ups; returns the new generation's number.

        Args:
            reason: one line, kept with the generation.
        """
