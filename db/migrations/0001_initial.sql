-- The history: every trial ever run, every decision ever made, every generation ever published.
-- Times are nanoseconds (_ns) or seconds (_seconds), sizes bytes, moments (_at) seconds since the epoch.
-- Samples are zlib-compressed little-endian int64 nanoseconds, in the order taken.

CREATE TABLE device(
  digest TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  family TEXT NOT NULL,
  facts TEXT NOT NULL CHECK (json_valid(facts)),
  local_index INTEGER CHECK (local_index >= 0), -- the first of its digest on this host; NULL: none is here
  recorded_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stack(
  digest TEXT PRIMARY KEY,
  facts TEXT NOT NULL CHECK (json_valid(facts)),
  recorded_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each key, however often the study was interrupted and resumed.
CREATE TABLE study(
  id INTEGER PRIMARY KEY,
  workload TEXT NOT NULL,
  problem TEXT NOT NULL, -- m=16,n=7168,...
  dimensions TEXT NOT NULL CHECK (json_type(dimensions) = 'object'),
  device TEXT NOT NULL REFERENCES device(digest),
  stack TEXT NOT NULL REFERENCES stack(digest),
  objective TEXT NOT NULL,
  space TEXT NOT NULL, -- digest of the search space
  max_error REAL CHECK (max_error >= 0), -- NULL: no more error than the baseline
  seed INTEGER NOT NULL,
  space_facts TEXT NOT NULL CHECK (json_type(space_facts) = 'object'),
  state TEXT NOT NULL CHECK (state IN ('running', 'ended', 'interrupted')),
  started_at REAL NOT NULL,
  ended_at REAL,
  end_reason TEXT NOT NULL DEFAULT '',
  CHECK ((state = 'ended') = (ended_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX study_key
  ON study(workload, problem, device, stack, objective, space, ifnull(max_error, -1));
CREATE INDEX study_device ON study(device, stack);
CREATE INDEX study_started ON study(started_at);
CREATE INDEX study_running ON study(id) WHERE state = 'running';

CREATE TABLE trial(
  id INTEGER PRIMARY KEY,
  study INTEGER NOT NULL REFERENCES study(id),
  number INTEGER NOT NULL CHECK (number >= 0),
  configuration TEXT NOT NULL CHECK (json_type(configuration) = 'object'),
  verdict TEXT NOT NULL CHECK (verdict IN ('ok', 'infeasible', 'compile_error', 'wrong', 'crashed', 'hung',
    'out_of_memory', 'noisy', 'preempted')),
  stage TEXT NOT NULL CHECK (stage IN ('feasibility', 'compile', 'correctness', 'screening', 'final')),
  reason TEXT NOT NULL,
  error REAL, -- ||out - ref|| / ||ref||
  memory_bytes INTEGER,
  compile_seconds REAL NOT NULL,
  measure_seconds REAL NOT NULL,
  started_at REAL NOT NULL,
  -- The measurement; all NULL when none was taken.
  p50_ns REAL,
  p90_ns REAL,
  p99_ns REAL,
  mean_ns REAL,
  variation REAL, -- standard deviation over mean
  sample_count INTEGER,
  samples BLOB,
  stopped TEXT,
  timer TEXT,
  cache TEXT,
  discarded INTEGER,
  clocks TEXT CHECK (json_type(clocks) = 'object')
) STRICT;

CREATE UNIQUE INDEX trial_number ON trial(study, number);
CREATE INDEX trial_outcome ON trial(study, verdict, p50_ns);
CREATE INDEX trial_verdict ON trial(verdict, started_at);

-- Every decision ever made. At most one per key is current; the others were superseded by a later one or
-- withdrawn by a rollback.
CREATE TABLE winner(
  id INTEGER PRIMARY KEY,
  study INTEGER REFERENCES study(id), -- NULL: taken over from a snapshot after its history was lost
  workload TEXT NOT NULL,
  problem TEXT NOT NULL,
  dimensions TEXT NOT NULL CHECK (json_type(dimensions) = 'object'),
  neighbourhood TEXT NOT NULL,
  device TEXT NOT NULL REFERENCES device(digest),
  stack TEXT NOT NULL REFERENCES stack(digest),
  objective TEXT NOT NULL,
  space TEXT NOT NULL,
  baseline_error REAL NOT NULL,
  decided_at REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('current', 'superseded', 'withdrawn')),
  changed_at REAL NOT NULL, -- when `state` became what it is
  note TEXT NOT NULL DEFAULT '' -- why
) STRICT;

CREATE UNIQUE INDEX winner_current
  ON winner(workload, problem, objective, device, stack) WHERE state = 'current';
CREATE INDEX winner_key ON winner(workload, problem, objective, device, stack, decided_at);
CREATE INDEX winner_neighbourhood
  ON winner(workload, neighbourhood, objective, device) WHERE state = 'current';
CREATE INDEX winner_study ON winner(study);

-- What a decision chose, with its proof: rank 0 is the winner, the others the rest of the Pareto front.
CREATE TABLE choice(
  winner INTEGER NOT NULL REFERENCES winner(id),
  rank INTEGER NOT NULL CHECK (rank >= 0),
  configuration TEXT NOT NULL CHECK (json_type(configuration) = 'object'),
  latency_ns REAL NOT NULL,
  p99_ns REAL,
  error REAL NOT NULL,
  memory_bytes INTEGER NOT NULL,
  trial INTEGER, -- its number in the study; NULL for the baseline
  is_baseline INTEGER NOT NULL CHECK (is_baseline IN (0, 1)),
  limit_share REAL,
  -- The proof: all contenders ran once in each round, in random order.
  rounds INTEGER NOT NULL,
  confidence REAL NOT NULL,
  margin REAL NOT NULL,
  proof_ns REAL NOT NULL, -- median of this configuration's rounds
  baseline_ns REAL NOT NULL, -- median of the baseline's rounds
  speedup REAL NOT NULL, -- over the baseline, paired; with its interval
  speedup_low REAL NOT NULL,
  speedup_high REAL NOT NULL,
  over_incumbent REAL, -- over the incumbent, paired; NULL when there was none
  over_incumbent_low REAL,
  over_incumbent_high REAL,
  rounds_stopped TEXT NOT NULL,
  -- The fresh re-measurement after the decision; all NULL when none was taken.
  p90_ns REAL,
  mean_ns REAL,
  variation REAL,
  sample_count INTEGER,
  samples BLOB,
  stopped TEXT,
  timer TEXT,
  cache TEXT,
  discarded INTEGER,
  clocks TEXT CHECK (json_type(clocks) = 'object'),
  PRIMARY KEY (winner, rank)
) STRICT, WITHOUT ROWID;

CREATE TABLE generation(
  number INTEGER PRIMARY KEY,
  published_at REAL NOT NULL,
  reason TEXT NOT NULL,
  digest TEXT NOT NULL, -- SHA-256 of the file
  choices INTEGER NOT NULL,
  restored_from INTEGER, -- the generation that a rollback brought back
  pin_reason TEXT -- NULL: not pinned, deleted when it is no longer among the newest
) STRICT;

-- What the next generation will say; the one row is changed in the transaction that changes winners.
CREATE TABLE publication(
  id INTEGER PRIMARY KEY CHECK (id = 1),
  stale INTEGER NOT NULL CHECK (stale IN (0, 1)), -- whether best.db is behind the winners
  restored_from INTEGER
) STRICT;

INSERT INTO publication(id, stale) VALUES (1, 0);

CREATE TABLE event(
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL CHECK (json_type(detail) = 'object')
) STRICT;

CREATE INDEX event_kind ON event(kind, at);
CREATE INDEX event_at ON event(at);
