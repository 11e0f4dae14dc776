-- A published snapshot, best.db: what look-ups read. Written whole, renamed into place, never changed.

CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE device(
  digest TEXT PRIMARY KEY,
  kind TEXT,
  name TEXT,
  family TEXT,
  facts TEXT, -- JSON
  local_index INTEGER -- the first of its digest on this host; NULL: none is here
) STRICT;

CREATE TABLE stack(digest TEXT PRIMARY KEY, facts TEXT) STRICT;

CREATE TABLE choice(
  workload TEXT,
  problem TEXT,
  objective TEXT,
  device TEXT,
  stack TEXT,
  rank INTEGER, -- 0: the winner; above: the rest of the Pareto front over latency, error and memory
  neighbourhood TEXT,
  dimensions TEXT, -- JSON
  configuration TEXT, -- JSON
  latency_ns REAL,
  p99_ns REAL,
  error REAL,
  memory_bytes INTEGER,
  baseline_ns REAL,
  baseline_error REAL,
  speedup REAL,
  speedup_low REAL,
  speedup_high REAL,
  is_baseline INTEGER,
  limit_share REAL,
  study INTEGER,
  trial INTEGER,
  decided_at REAL,
  origin TEXT, -- entry of the fleet that it was taken from, unverified here; NULL: decided here
  PRIMARY KEY (workload, problem, objective, device, stack, rank)
) STRICT, WITHOUT ROWID;

CREATE INDEX choice_neighbourhood ON choice(workload, neighbourhood, objective);
