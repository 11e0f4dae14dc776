"""The workload `server` as look-ups know it: its two dimensions. Importing this declares it.

Look-ups load this module, so it imports nothing but what is light. What may be tried is in a server's spec.
"""

from __future__ import annotations

from autotune.space.declared import declare
from autotune.space.problem import Dimension

WORKLOAD = "server"

DIMENSIONS = (
    Dimension("spec", text=True, summary="name in the server's spec"),
    Dimension("digest", text=True, summary="of command, load, objectives and all else that the spec says"),
)

declare(WORKLOAD, DIMENSIONS, {})
