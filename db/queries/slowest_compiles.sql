-- The configurations that took longest to build (packing weights, compiling kernels), whether they ran or not.
SELECT
  s.workload,
  s.problem,
  t.study,
  t.number,
  t.configuration,
  round(t.compile_seconds, 2) AS compile_seconds,
  t.verdict,
  t.reason
FROM trial t JOIN study s ON s.id = t.study
WHERE t.compile_seconds > 0
ORDER BY t.compile_seconds DESC, t.id
LIMIT 50;
