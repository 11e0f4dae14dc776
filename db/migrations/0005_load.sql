-- What a load of a server showed, as JSON (autotune/measure/load/figures.py: LoadFigures); NULL where calls were timed.
ALTER TABLE trial ADD COLUMN load TEXT;
ALTER TABLE choice ADD COLUMN load TEXT;
