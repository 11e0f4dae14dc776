-- What a trial's GPU kernels need (shared memory, registers, spills), a JSON list; NULL where none was compiled ahead.
ALTER TABLE trial ADD COLUMN kernels TEXT;
