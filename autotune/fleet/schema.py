"""The fleet's tables; `migrations/` makes them, and says what each role may do with them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Double, MetaData, Table, Text, Uuid, func

SCHEMA = "fleet"
metadata = MetaData(schema=SCHEMA)

ENTRY = Table(
    "entry",
    metadata,
    Column("seq", BigInteger, comment="set by the server; rises within a device and stack as rows arrive"),
    Column("digest", Text, primary_key=True, comment="SHA-256 of kind, device, stack and body"),
    Column("kind", Text, comment="winner, refutation or request"),
    Column("node", Uuid),
    Column("device", Text),
    Column("stack", Text),
    Column("workload", Text),
    Column("problem", Text),
    Column("objective", Text),
    Column("subject", Text, comment="digest of the winner that is refuted"),
    Column("latency_ns", Double),
    Column("baseline_ns", Double),
    Column("speedup", Double),
    Column("body", Text, comment="JSON, as autotune.fleet.entries reads it"),
    Column("made_at", Double, comment="seconds since the epoch, by the node's clock"),
    Column("chain", Text, comment="set by the server; SHA-256 over the chain before and the digest"),
    Column("arrived_at", DateTime(timezone=True), comment="set by the server"),
    Column("written_by", Text, comment="set by the server: the login"),
)
"""All that nodes tell each other, in the order it arrived; rows are added and never changed."""

VERIFICATION = Table(
    "verification",
    metadata,
    Column("digest", Text, primary_key=True, comment="SHA-256 of what follows"),
    Column("winner", Text, comment="digest of the entry that was measured again"),
    Column("node", Uuid),
    Column("device", Text),
    Column("stack", Text),
    Column("workload", Text),
    Column("problem", Text),
    Column("objective", Text),
    Column("outcome", Text, comment="holds, or beaten by another configuration"),
    Column("latency_ns", Double),
    Column("baseline_ns", Double),
    Column("speedup", Double),
    Column("made_at", Double),
    Column("arrived_at", DateTime(timezone=True)),
    Column("written_by", Text),
)
"""That a winner holds on another node: nobody has to hear of it, so it is apart from the entries."""

NODE = Table(
    "node",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text),
    Column("version", Text, comment="of autotune"),
    Column("cells", Text, comment="JSON list of [device, stack] that it tunes"),
    Column(
        "mark", Text, comment="of the last time it sent something; how it notices that a backup was restored"
    ),
    Column("seen_at", DateTime(timezone=True), server_default=func.now()),
    Column("written_by", Text),
)
"""The nodes, each row written by its node alone."""

DEVICE = Table(
    "device",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("kind", Text),
    Column("name", Text),
    Column("family", Text),
    Column("written_by", Text),
)

GENERATION = Table(
    "generation",
    metadata,
    Column("digest", Text, primary_key=True, comment="SHA-256 of the body"),
    Column("body", Text, comment="JSON, as autotune.fleet.generations reads it"),
    Column("made_at", DateTime(timezone=True)),
    Column("written_by", Text),
)
"""Sets of winners that jobs pinned."""
