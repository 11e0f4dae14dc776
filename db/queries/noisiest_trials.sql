-- The trials whose latency varied most: what disturbs this machine, and which configurations are unsteady.
SELECT
  s.workload,
  s.problem,
  t.study,
  t.number,
  t.configuration,
  round(100 * t.variation, 2) AS variation_percent,
  round(t.p50_ns / 1e3, 2) AS p50_us,
  round(t.p99_ns / 1e3, 2) AS p99_us,
  t.sample_count,
  t.discarded,
  t.stopped,
  t.clocks
FROM trial t JOIN study s ON s.id = t.study
WHERE t.variation IS NOT NULL
ORDER BY t.variation DESC, t.id
LIMIT 50;
