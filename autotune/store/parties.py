"""Who works on a study at once: equal devices of a host, each of which begins it and ends it."""

from __future__ import annotations

DECIDED_ELSEWHERE = "decided by another node"
"""Why a study ends on those that leave the decision to another."""
INTERRUPTED = "interrupted"
"""Why it ends on one that was ended."""
_LEAST_TELLING = (DECIDED_ELSEWHERE, INTERRUPTED)


class Parties:
    """Counts who works on each study."""

    def __init__(self) -> None:
        self._present: dict[int, int] = {}
        self._reasons: dict[int, list[str]] = {}
        self._several: set[int] = set()

    def join(self, study: int) -> None:
        """One more works on it."""
        present = self._present[study] = self._present.get(study, 0) + 1
        if present > 1:
            self._several.add(study)

    def are_several(self, study: int) -> bool:
        """Whether more than one works on it, or did until a moment ago."""
        return study in self._several

    def leave(self, study: int, reason: str) -> str | None:
        """One of them ends its part.

        Args:
            study: its number.
            reason: why.

        Returns:
            Why the study has ended: what the one that decided it says. None while others go on.
        """
        reasons = self._reasons.setdefault(study, [])
        reasons.append(reason)
        self._present[study] = self._present.get(study, 1) - 1
        if self._present[study] > 0:
            return None
        del self._present[study], self._reasons[study]
        self._several.discard(study)
        return min(reasons, key=_rank)


def _rank(reason: str) -> int:
    return 1 + _LEAST_TELLING.index(reason) if reason in _LEAST_TELLING else 0
