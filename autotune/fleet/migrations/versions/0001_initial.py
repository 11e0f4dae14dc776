"""Entries, verifications, nodes, devices and generations, with what each role may do.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
CREATE SEQUENCE fleet.entry_seq;

CREATE TABLE fleet.entry(
  seq bigint NOT NULL,
  digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
  kind text NOT NULL CHECK (kind IN ('winner', 'refutation', 'request')),
  node uuid NOT NULL,
  device text NOT NULL CHECK (device ~ '^[0-9a-f]{8,64}$'),
  stack text NOT NULL CHECK (stack ~ '^[0-9a-f]{8,64}$'),
  workload text NOT NULL CHECK (length(workload) BETWEEN 1 AND 512),
  problem text NOT NULL CHECK (length(problem) BETWEEN 1 AND 512),
  objective text NOT NULL CHECK (length(objective) BETWEEN 1 AND 64),
  subject text CHECK (subject ~ '^[0-9a-f]{64}$'),
  latency_ns double precision CHECK (latency_ns > 0 AND latency_ns < 'Infinity'),
  baseline_ns double precision CHECK (baseline_ns > 0 AND baseline_ns < 'Infinity'),
  speedup double precision CHECK (speedup > 0 AND speedup < 'Infinity'),
  body text NOT NULL CHECK (octet_length(body) <= 65536),
  made_at double precision NOT NULL CHECK (made_at > 0 AND made_at < 'Infinity'),
  chain text NOT NULL,
  arrived_at timestamptz NOT NULL,
  written_by text NOT NULL,
  CHECK ((kind = 'refutation') = (subject IS NOT NULL))
);
CREATE UNIQUE INDEX entry_order ON fleet.entry(device, stack, seq);
CREATE INDEX entry_subject ON fleet.entry(subject) WHERE subject IS NOT NULL;

CREATE TABLE fleet.verification(
  digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
  winner text NOT NULL CHECK (winner ~ '^[0-9a-f]{64}$'),
  node uuid NOT NULL,
  device text NOT NULL CHECK (device ~ '^[0-9a-f]{8,64}$'),
  stack text NOT NULL CHECK (stack ~ '^[0-9a-f]{8,64}$'),
  workload text NOT NULL CHECK (length(workload) BETWEEN 1 AND 512),
  problem text NOT NULL CHECK (length(problem) BETWEEN 1 AND 512),
  objective text NOT NULL CHECK (length(objective) BETWEEN 1 AND 64),
  outcome text NOT NULL CHECK (outcome IN ('holds', 'beaten')),
  latency_ns double precision NOT NULL CHECK (latency_ns > 0 AND latency_ns < 'Infinity'),
  baseline_ns double precision NOT NULL CHECK (baseline_ns > 0 AND baseline_ns < 'Infinity'),
  speedup double precision NOT NULL CHECK (speedup > 0 AND speedup < 'Infinity'),
  made_at double precision NOT NULL CHECK (made_at > 0 AND made_at < 'Infinity'),
  arrived_at timestamptz NOT NULL DEFAULT now(),
  written_by text NOT NULL DEFAULT session_user
);
CREATE INDEX verification_winner ON fleet.verification(winner);
CREATE INDEX verification_node ON fleet.verification(node);

CREATE TABLE fleet.node(
  id uuid PRIMARY KEY,
  name text NOT NULL CHECK (length(name) <= 64),
  version text NOT NULL CHECK (length(version) <= 64),
  cells text NOT NULL CHECK (octet_length(cells) <= 16384),
  mark text NOT NULL CHECK (length(mark) <= 64),
  seen_at timestamptz NOT NULL DEFAULT now(),
  written_by text NOT NULL DEFAULT session_user
);
CREATE INDEX node_seen ON fleet.node(seen_at);

CREATE TABLE fleet.device(
  digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{8,64}$'),
  kind text NOT NULL CHECK (kind IN ('cpu', 'cuda', 'rocm')),
  name text NOT NULL CHECK (length(name) <= 512),
  family text NOT NULL CHECK (length(family) <= 512),
  written_by text NOT NULL DEFAULT session_user
);

CREATE TABLE fleet.generation(
  digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
  body text NOT NULL CHECK (octet_length(body) <= 67108864),
  made_at timestamptz NOT NULL DEFAULT now(),
  written_by text NOT NULL DEFAULT session_user
);
"""

# Rows of one device and stack become visible in the order of their numbers: the number is drawn under a lock
# that is held until the row is committed. Else a reader could pass over a row whose transaction ends after
# that of a higher one. The chain tells a reader whether all that it has read is still there.
_ORDER = """
CREATE FUNCTION fleet.append() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE previous text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(NEW.device || ' ' || NEW.stack, 20260));
  SELECT chain INTO previous FROM fleet.entry
    WHERE device = NEW.device AND stack = NEW.stack ORDER BY seq DESC LIMIT 1;
  NEW.seq := nextval('fleet.entry_seq');
  NEW.chain := encode(sha256(convert_to(coalesce(previous, '') || NEW.digest, 'UTF8')), 'hex');
  NEW.arrived_at := now();
  NEW.written_by := session_user;
  RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION fleet.append() FROM PUBLIC;
CREATE TRIGGER entry_append BEFORE INSERT ON fleet.entry FOR EACH ROW EXECUTE FUNCTION fleet.append();
"""

_RIGHTS = """
GRANT SELECT ON ALL TABLES IN SCHEMA fleet TO autotune_node, autotune_reader;

GRANT INSERT (digest, kind, node, device, stack, workload, problem, objective, subject, latency_ns,
  baseline_ns, speedup, body, made_at) ON fleet.entry TO autotune_node;
GRANT INSERT (digest, winner, node, device, stack, workload, problem, objective, outcome, latency_ns,
  baseline_ns, speedup, made_at) ON fleet.verification TO autotune_node;
GRANT INSERT (digest, kind, name, family) ON fleet.device TO autotune_node;
GRANT INSERT (digest, body) ON fleet.generation TO autotune_node;
GRANT INSERT (id, name, version, cells, mark), UPDATE (name, version, cells, mark, seen_at) ON fleet.node
  TO autotune_node;

ALTER TABLE fleet.node ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_read ON fleet.node FOR SELECT USING (true);
CREATE POLICY own_insert ON fleet.node FOR INSERT WITH CHECK (written_by = session_user);
CREATE POLICY own_update ON fleet.node FOR UPDATE USING (written_by = session_user)
  WITH CHECK (written_by = session_user);
"""


def upgrade() -> None:
    """Make everything."""
    for script in (_TABLES, _ORDER, _RIGHTS):
        op.get_bind().exec_driver_sql(script)


def downgrade() -> None:
    """Remove everything."""
    op.get_bind().exec_driver_sql(
        "DROP TABLE fleet.entry, fleet.verification, fleet.node, fleet.device, fleet.generation; "
        "DROP FUNCTION fleet.append(); DROP SEQUENCE fleet.entry_seq"
    )
