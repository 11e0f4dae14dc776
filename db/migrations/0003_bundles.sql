-- What other machines found, taken from bundles: kept apart from what was measured here, which alone is published.
CREATE TABLE bundle(
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE, -- SHA-256 of the content
  made_at REAL NOT NULL,
  made_by TEXT NOT NULL, -- version of autotune
  imported_at REAL NOT NULL
) STRICT;

CREATE TABLE imported_winner(
  id INTEGER PRIMARY KEY,
  bundle INTEGER NOT NULL REFERENCES bundle(id),
  workload TEXT NOT NULL,
  problem TEXT NOT NULL,
  objective TEXT NOT NULL,
  device TEXT NOT NULL, -- digest of the device it was proven on
  kind TEXT NOT NULL, -- of that device
  family TEXT NOT NULL,
  configuration TEXT NOT NULL CHECK (json_type(configuration) = 'object'),
  detail TEXT NOT NULL CHECK (json_type(detail) = 'object') -- the whole winner with its proof
) STRICT;

CREATE INDEX imported_winner_problem ON imported_winner(workload, problem, objective, kind, family);
CREATE INDEX imported_winner_bundle ON imported_winner(bundle);

CREATE TABLE imported_study(
  id INTEGER PRIMARY KEY,
  bundle INTEGER NOT NULL REFERENCES bundle(id),
  workload TEXT NOT NULL,
  dimensions TEXT NOT NULL CHECK (json_type(dimensions) = 'object'),
  device TEXT NOT NULL,
  stack TEXT NOT NULL,
  kind TEXT NOT NULL,
  family TEXT NOT NULL
) STRICT;

CREATE INDEX imported_study_workload ON imported_study(workload, kind, family);
CREATE INDEX imported_study_bundle ON imported_study(bundle);

CREATE TABLE imported_trial(
  study INTEGER NOT NULL REFERENCES imported_study(id),
  number INTEGER NOT NULL CHECK (number >= 0),
  detail TEXT NOT NULL CHECK (json_type(detail) = 'object'), -- the whole trial
  PRIMARY KEY (study, number)
) STRICT, WITHOUT ROWID;
