-- The current winner of every problem with its proof, the greatest speed-up over the baseline first.
SELECT
  w.workload,
  w.problem,
  d.name AS device,
  w.stack,
  w.objective,
  c.configuration,
  round(c.latency_ns / 1e3, 2) AS latency_us,
  round(c.baseline_ns / 1e3, 2) AS baseline_us,
  round(c.speedup, 3) AS speedup,
  round(c.speedup_low, 3) AS speedup_low,
  round(c.speedup_high, 3) AS speedup_high,
  c.error,
  w.baseline_error,
  round(100 * c.limit_share) AS percent_of_limit,
  datetime(w.decided_at, 'unixepoch') AS decided_at_utc
FROM winner w
JOIN choice c ON c.winner = w.id AND c.rank = 0
JOIN device d ON d.digest = w.device
WHERE w.state = 'current'
ORDER BY c.speedup DESC, w.workload, w.problem;
