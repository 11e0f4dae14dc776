-- Configurations that did harm, and are not tried again on that device under that stack.
SELECT
  s.workload,
  s.problem,
  s.device,
  s.stack,
  t.configuration,
  t.verdict,
  t.stage,
  count(*) AS times,
  max(t.reason) AS one_reason
FROM trial t JOIN study s ON s.id = t.study
WHERE t.verdict IN ('wrong', 'crashed', 'hung', 'out_of_memory')
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 1, 2, times DESC;
