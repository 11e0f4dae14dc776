-- What this node and the fleet tell each other; see docs/fleet.md. A winner with an origin was proven on another node
-- with an equal device and stack, and not yet on this one.
ALTER TABLE winner ADD COLUMN origin TEXT; -- digest of its entry; NULL: decided here

-- Entries of this node that the fleet has not received are the outbox.
CREATE TABLE fleet_entry(
  digest TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('winner', 'refutation', 'request', 'verification')),
  node TEXT NOT NULL,
  device TEXT NOT NULL,
  stack TEXT NOT NULL,
  workload TEXT NOT NULL,
  problem TEXT NOT NULL,
  objective TEXT NOT NULL,
  subject TEXT, -- digest of the winner that was measured again
  latency_ns REAL,
  baseline_ns REAL,
  speedup REAL,
  body TEXT NOT NULL CHECK (json_type(body) = 'object'),
  made_at REAL NOT NULL,
  received INTEGER NOT NULL CHECK (received IN (0, 1)) -- whether the fleet has it
) STRICT, WITHOUT ROWID;

CREATE INDEX fleet_entry_key ON fleet_entry(workload, problem, objective, device, stack, kind);
CREATE INDEX fleet_entry_subject ON fleet_entry(subject) WHERE subject IS NOT NULL;
CREATE INDEX fleet_entry_outbox ON fleet_entry(made_at) WHERE received = 0;

-- How far the fleet's entries of a device and stack were read.
CREATE TABLE fleet_cursor(
  device TEXT NOT NULL,
  stack TEXT NOT NULL,
  seq INTEGER NOT NULL,
  chain TEXT NOT NULL, -- which tells whether all that was read is still there
  PRIMARY KEY (device, stack)
) STRICT, WITHOUT ROWID;

-- node: this node's name in the fleet; mark: of what it sent last; queued: the last decision that was put into the
-- outbox; serve: whether what is not verified here is published.
CREATE TABLE fleet_state(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
