-- Energy of one call in joules, where it was measured; the columns of a choice are its proof's and the fresh
-- measurement's.
ALTER TABLE trial ADD COLUMN joules REAL;
ALTER TABLE choice ADD COLUMN joules REAL;
ALTER TABLE choice ADD COLUMN proof_joules REAL;
ALTER TABLE choice ADD COLUMN baseline_joules REAL;
