-- How trials ended, by workload and implementation: where the search spends its time, and on what it fails.
SELECT
  s.workload,
  json_extract(t.configuration, '$.implementation') AS implementation,
  t.verdict,
  count(*) AS trials,
  round(sum(t.compile_seconds + t.measure_seconds), 1) AS seconds,
  max(t.reason) AS one_reason
FROM trial t JOIN study s ON s.id = t.study
GROUP BY 1, 2, 3
ORDER BY 1, 2, trials DESC;
