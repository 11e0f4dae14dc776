-- Every decision by the day it was made (UTC): what was decided, with what gain, and what became of it.
SELECT
  date(w.decided_at, 'unixepoch') AS day_utc,
  w.workload,
  w.problem,
  w.study,
  round(c.speedup, 3) AS speedup_over_baseline,
  round(c.over_incumbent, 3) AS speedup_over_incumbent,
  c.is_baseline,
  w.state,
  w.note
FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0
ORDER BY w.decided_at, w.id;
