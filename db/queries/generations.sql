-- Every published generation, the newest first: why, how many choices, and what a rollback brought back.
SELECT
  number,
  datetime(published_at, 'unixepoch') AS published_at_utc,
  choices,
  restored_from,
  pin_reason,
  reason
FROM generation
ORDER BY number DESC;
