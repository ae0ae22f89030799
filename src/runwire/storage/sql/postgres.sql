-- Every statement that the PostgreSQL adapter of log, runs and threads executes. Parameters are numbered.
-- What writes is a function of `postgres_functions.sql`, one call per write.

-- Opening -------------------------------------------------------------------------------------------

-- name: server_version
SELECT current_setting('server_version_num')::int

-- What a server says of itself to who only looks. Some connections are kept for the administrator.
-- name: condition
SELECT current_setting('server_version') AS version, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
  (SELECT coalesce(sum(numbackends), 0)::int FROM pg_stat_database) AS used

-- name: tables
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')

-- name: revision
SELECT version_num FROM alembic_version

-- name: limit_waiting
SELECT set_config('lock_timeout', $1, true)

-- The number is arbitrary; no other program of this database has a reason to take it.
-- name: lock_migration
SELECT pg_advisory_xact_lock(7234582137451962003)

-- name: make_meta
INSERT INTO meta (key, log) VALUES (1, $1) ON CONFLICT DO NOTHING

-- Where in the history of which cluster a server is.
-- name: place
SELECT s.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline FROM pg_control_system() s

-- What makes a history this one and no other. A promoted standby has another timeline; what is restored into another
-- database, of this cluster or not, has another oid or system. And how far it is on the disk: within one history that
-- never goes back, also not by a crash.
-- name: identity
SELECT m.log, s.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline, d.oid,
  (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS lsn, to_regclass('unfinished_import') IS NOT NULL AS is_half,
  CASE WHEN $1::text IS NOT NULL AND current_setting('server_version_num')::int >= 170000
    THEN set_config('transaction_timeout', $1, false) END AS transaction_timeout
FROM meta m, pg_control_system() s, pg_database d
WHERE m.key = 1 AND d.datname = current_database()

-- Gives a new timeline a name, if nobody else has.
-- name: name_history
UPDATE meta SET log = $2 WHERE key = 1 AND log = $1

-- name: log
SELECT log FROM meta WHERE key = 1

-- Begins another history, if it is still that one. Nobody's sign-in of the old one opens anything here, and every view of
-- users is read anew: what was withdrawn after the copy was made is not withdrawn in it. Epochs move past all that the lost
-- history can have reached, in which they went on one by one: gateways know the old signing keys, and would take its tokens.
-- name: begin_history
WITH begun AS (UPDATE meta SET log = $2 WHERE key = 1 AND log = $1 RETURNING key),
  counter AS (UPDATE auth_counter SET generation = $3 WHERE key IN (SELECT key FROM begun)),
  users AS (
    UPDATE auth_user SET epoch = greatest(epoch + 1, runwire_now() / 1000) WHERE EXISTS (SELECT 1 FROM begun)
  ),
  keys AS (DELETE FROM auth_signing_key WHERE EXISTS (SELECT 1 FROM begun)),
  sessions AS (DELETE FROM auth_session WHERE EXISTS (SELECT 1 FROM begun)),
  links AS (DELETE FROM auth_link WHERE EXISTS (SELECT 1 FROM begun)),
  tickets AS (DELETE FROM auth_ticket WHERE EXISTS (SELECT 1 FROM begun)),
  invites AS (DELETE FROM auth_invite WHERE EXISTS (SELECT 1 FROM begun)),
  resets AS (DELETE FROM auth_reset WHERE EXISTS (SELECT 1 FROM begun))
SELECT count(*) FROM begun

-- name: ping
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool

-- The log -------------------------------------------------------------------------------------------

-- Times to wait for were reckoned by the worker's clock, which reads $19 now, and come by the database's: a worker whose
-- clock is wrong would else have everybody wait so much longer, or not at all. Up to a second all clocks differ.
-- name: append
SELECT * FROM runwire_append(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
  CASE WHEN abs(runwire_now() - $19::bigint) < 1000 THEN $16::bigint[]
    ELSE ARRAY(SELECT due + runwire_now() - $19 FROM unnest($16::bigint[]) WITH ORDINALITY AS w (due, n) ORDER BY n)
  END, $17, $18)

-- name: read
SELECT first_seq, last_seq, run, attempt, events, head, floor FROM runwire_read($1, $2, $3, $4)

-- Its message first; between that and its start may lie events of the runs that it queued behind.
-- name: read_run
SELECT s.first_seq, s.attempt, s.events
FROM run r LEFT JOIN LATERAL (
  SELECT m.first_seq, m.attempt, m.events FROM segment m
  WHERE m.thread_key = r.thread_key AND m.first_seq = r.seq AND m.run_key = r.key
  UNION ALL
  SELECT m.first_seq, m.attempt, m.events FROM segment m
  WHERE m.thread_key = r.thread_key AND m.first_seq >= coalesce(r.started_seq, r.terminal_seq, 9223372036854775807)
    AND m.first_seq <> r.seq AND m.run_key = r.key
) s ON true
WHERE r.id = $1
ORDER BY s.first_seq

-- Several threads, each from beyond its own seq; in one statement, hence of one moment.
-- `height` is how many events each may have so that all together have no more than the limit, were there no gaps: the
-- highest water that fits into the holes. So of each thread only what may be wanted is looked at; then segments are
-- taken in turns, always next of the thread that has got least, until one of the limits is passed.
-- name: read_many
WITH asked AS MATERIALIZED (
  SELECT a.place, t.id, t.key, t.head, t.floor, greatest(a.seq, t.floor) AS start,
    greatest(t.head - greatest(a.seq, t.floor), 0) AS hole
  FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS a (id, seq, place) JOIN thread t ON t.id = a.id
  WHERE t.deleted_at IS NULL
), filling AS (
  SELECT *,
    ($3::bigint - sum(hole) OVER (ORDER BY hole, place) + hole)
    / (count(*) OVER () - row_number() OVER (ORDER BY hole, place) + 1) AS height
  FROM asked
), shared AS MATERIALIZED (
  SELECT *, least(hole, greatest(ceil(max(height) OVER ()), 1)::bigint) AS share FROM filling
), found AS (
  SELECT g.*, d.first_seq, d.last_seq, d.run_key, d.attempt, d.events, octet_length(d.events) AS size,
    d.last_seq - greatest(d.first_seq - 1, g.start) AS count,
    count(d.first_seq) OVER (PARTITION BY g.place) AS segments,
    row_number() OVER (PARTITION BY g.place ORDER BY d.first_seq) AS number
  FROM shared g LEFT JOIN LATERAL (
    SELECT s.first_seq, s.last_seq, s.run_key, s.attempt, s.events FROM segment s
    WHERE g.hole > 0 AND s.thread_key = g.key AND s.first_seq >= coalesce(
      (SELECT max(b.first_seq) FROM segment b WHERE b.thread_key = g.key AND b.first_seq <= g.start + 1), 0)
    ORDER BY s.first_seq LIMIT g.share + 1
  ) d ON d.last_seq > g.start
), turned AS (
  SELECT *, coalesce(sum(count) OVER (
    PARTITION BY place ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS got
  FROM found
), ranked AS (
  SELECT *,
    coalesce(sum(count) OVER (ORDER BY got, place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < $3::bigint
    AND coalesce(sum(size) OVER (ORDER BY got, place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < $4::bigint
      AS fits
  FROM turned
)
SELECT f.id, f.head, f.floor, f.start, f.number = f.segments AND f.share = f.hole AS is_last,
  f.first_seq, f.last_seq, r.id AS run, f.attempt, CASE WHEN f.fits THEN f.events END AS events
FROM ranked f LEFT JOIN run r ON r.key = f.run_key
WHERE f.fits OR f.number = 1
ORDER BY f.place, f.number

-- Two EXISTS: each has its partial index, so that a long past of ended runs costs nothing.
-- name: moved_heads
SELECT t.id, t.head,
  EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status IN ('running', 'waiting'))
  OR EXISTS (SELECT 1 FROM run r WHERE r.thread_key = t.key AND r.status = 'queued') AS is_active
FROM unnest($1::text[], $2::bigint[]) AS k (id, seq) JOIN thread t ON t.id = k.id
WHERE t.head > k.seq AND t.deleted_at IS NULL

-- name: blob_of_user
SELECT b.data
FROM blob b JOIN "user" u ON u.key = b.user_key JOIN run r ON r.key = b.run_key JOIN thread t ON t.key = r.thread_key
WHERE u.id = $1 AND b.ref = $2 AND t.deleted_at IS NULL
LIMIT 1

-- name: blob_of_run
SELECT b.data FROM run r JOIN blob b ON b.run_key = r.key WHERE r.id = $1 AND b.ref = $2

-- People and threads --------------------------------------------------------------------------------

-- name: create_thread
SELECT runwire_create_thread($1, $2, $3, $4)

-- Each pair is looked up by itself: no row of one user is related to another's.
-- name: thread_rows
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM unnest($1::text[], $2::text[]) AS a (thread, owner) JOIN thread t ON t.id = a.thread
JOIN "user" u ON u.key = t.user_key AND u.id = a.owner
WHERE t.deleted_at IS NULL

-- name: thread_row
SELECT t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM thread t JOIN "user" u ON u.key = t.user_key
WHERE t.id = $1 AND u.id = $2 AND t.deleted_at IS NULL

-- The user's key in a subquery of its own: so the index gives the rows in order, and only as many as are wanted.
-- name: list_threads
SELECT t.id, $1, t.title, t.head, t.floor, t.created_at, t.updated_at
FROM thread t
WHERE t.user_key = (SELECT u.key FROM "user" u WHERE u.id = $1) AND t.deleted_at IS NULL
  AND t.key < CASE WHEN $2::text IS NULL THEN 9223372036854775807 ELSE (
    SELECT b.key FROM thread b WHERE b.id = $2 AND b.user_key = (SELECT u.key FROM "user" u WHERE u.id = $1)) END
ORDER BY t.key DESC LIMIT $3

-- name: rename_thread
UPDATE thread t SET title = $3, updated_at = runwire_now()
FROM "user" u
WHERE t.id = $1 AND u.id = $2 AND u.key = t.user_key AND t.deleted_at IS NULL
RETURNING t.id, u.id, t.title, t.head, t.floor, t.created_at, t.updated_at

-- name: delete_thread
SELECT runwire_delete_thread($1, $2, $3, $4)

-- The active run is older than every queued one.
-- name: reset_from
SELECT greatest(t.floor, coalesce(
  (SELECT r.seq - 1 FROM run r WHERE r.thread_key = t.key AND r.status IN ('running', 'waiting')),
  (SELECT r.seq - 1 FROM run r WHERE r.thread_key = t.key AND r.status = 'queued' ORDER BY r.key LIMIT 1),
  (SELECT r.seq - 1 FROM run r WHERE r.thread_key = t.key ORDER BY r.key DESC LIMIT 1),
  0))
FROM thread t WHERE t.id = $1 AND t.deleted_at IS NULL

-- Runs ----------------------------------------------------------------------------------------------

-- name: send
SELECT * FROM runwire_send($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- name: run_by_idempotency_key
SELECT t.id AS thread, r.id AS run, r.message, r.seq, r.after, r.fingerprint, t.deleted_at
FROM "user" u JOIN run r ON r.user_key = u.key JOIN thread t ON t.key = r.thread_key
WHERE u.id = $1 AND r.idempotency_key = $2

-- name: cancel
SELECT * FROM runwire_cancel($1, $2, $3, $4, $5, $6, $7, $8)

-- name: claim
SELECT * FROM runwire_claim($1, $2, $3, $4, $5, $6, $7, runwire_now() < $8::bigint, $9)

-- As many runs ($1) as a worker with room would take at once, and since when they wait, by agent. It steps from user to
-- user through the index of queued runs, as far as the limit; of each few are looked at. What was in a run's way,
-- its thread's run before it or the user's limit ($2), has ended since. (Single values, each the first of an order: the
-- planner makes no joins of them, which would walk through all there is; `runwire_is_next`, ten thousand times, is slow.)
-- name: waiting_runs
WITH RECURSIVE people (key) AS (
  (SELECT q.user_key FROM run q WHERE q.status = 'queued' ORDER BY q.user_key LIMIT 1)
  UNION ALL
  SELECT (SELECT q.user_key FROM run q WHERE q.status = 'queued' AND q.user_key > p.key ORDER BY q.user_key LIMIT 1)
  FROM people p WHERE p.key IS NOT NULL
)
SELECT w.agent, count(*) AS runs, runwire_now() - min(w.since) AS waited_ms FROM (
  SELECT n.agent, greatest(n.created_at,
    (SELECT b.ended_at FROM run b WHERE b.thread_key = n.thread_key AND b.key < n.key
      ORDER BY b.thread_key DESC, b.key DESC LIMIT 1),
    (SELECT max(e.ended_at) FROM (SELECT b.ended_at FROM run b WHERE b.user_key = n.user_key AND b.key < n.key
      ORDER BY b.user_key DESC, b.key DESC LIMIT $2) e)) AS since
  FROM people p CROSS JOIN LATERAL (
    SELECT q.key, q.user_key, q.thread_key, q.agent, q.created_at FROM (
      SELECT f.key, f.user_key, f.thread_key, f.agent, f.created_at FROM run f
      WHERE f.user_key = p.key AND f.status = 'queued' ORDER BY f.user_key, f.key LIMIT 2 * $2
    ) q
    WHERE (SELECT a.key FROM run a WHERE a.thread_key = q.thread_key AND a.status IN ('running', 'waiting')
        ORDER BY a.thread_key LIMIT 1) IS NULL
      AND q.key = (SELECT o.key FROM run o WHERE o.thread_key = q.thread_key AND o.status = 'queued'
        ORDER BY o.thread_key, o.key LIMIT 1)
    LIMIT greatest(0, $2 - (SELECT count(*) FROM run a WHERE a.user_key = p.key AND a.status = 'running'))
  ) n
  WHERE p.key IS NOT NULL LIMIT $1
) w
GROUP BY w.agent

-- The database's time, and whether there is a lease of another worker that has run out.
-- name: as_of
SELECT runwire_now() AS now,
  EXISTS (SELECT 1 FROM run WHERE status = 'running' AND worker <> $1 AND lease_until < runwire_now()) AS is_any_lost

-- What claimed runs must read again; not with the claim, whose locks would wait until it is taken off the socket.
-- name: pinned
SELECT r.id, p.data FROM unnest($1::text[]) AS a (id) JOIN run r ON r.id = a.id JOIN pinned p ON p.run_key = r.key

-- All leases of a worker at once, also those that have run out and that nobody took. It waits for who holds a row: an
-- append of this very worker, mostly. The `coalesce` here and below keeps the planner off the index of running runs, so
-- that each run is found by its id.
-- name: renew
WITH held AS (
  SELECT r.key FROM unnest($2::text[], $3::bigint[]) AS h (id, attempt) JOIN run r ON r.id = h.id
  WHERE r.attempt = h.attempt AND r.worker = $1 AND coalesce(r.status, '') = 'running'
  ORDER BY r.key FOR NO KEY UPDATE OF r
)
UPDATE run r SET lease_until = runwire_now() + $4::bigint FROM held WHERE r.key = held.key

-- name: release
UPDATE run SET worker = NULL, lease_until = NULL, handed_over = nullif($3, 'worker_lost'),
  lost = CASE $3 WHEN 'worker_lost' THEN substring(lost || attempt || ',' FROM '(?:[0-9]+,){1,64}$') ELSE lost END
WHERE id = $1 AND attempt = $2 AND coalesce(status, '') = 'running' AND worker IS NOT NULL

-- name: park
SELECT runwire_park($1, $2, $3, $4, $5)

-- Of those that are still held as they say only what is called off.
-- name: signals
SELECT * FROM (
  SELECT h.run, coalesce(r.attempt, h.attempt) AS attempt,
    coalesce(r.status = 'running' AND r.worker = $1 AND r.attempt = h.attempt, false) AS is_held,
    r.cancel_by, r.cancel_reason
  FROM unnest($2::text[], $3::bigint[]) AS h (run, attempt) LEFT JOIN run r ON r.id = h.run
) s
WHERE NOT is_held OR cancel_by IS NOT NULL

-- Of these waits those that are not open any more, in the order in which they are asked for.
-- name: answers
SELECT r.id AS run, w.id AS wait, w."by", w.value
FROM unnest($1::text[]) WITH ORDINALITY AS a (id, n) JOIN wait w ON w.id = a.id JOIN run r ON r.key = w.run_key
WHERE w."by" IS NOT NULL ORDER BY a.n

-- name: answer
SELECT * FROM runwire_answer($1, $2, $3, $4, $5, $6, $7)

-- name: due_waits
SELECT w.id FROM wait w WHERE w."by" IS NULL AND w.due_at IS NOT NULL AND w.due_at <= runwire_now()
ORDER BY w.due_at LIMIT $1

-- name: fire_timers
SELECT * FROM runwire_fire_timers($1, $2, $3)

-- name: run_row
SELECT r.id, t.id, u.id, r.agent, r.status, r.attempt, r.message, r.seq, r.started_seq, r.terminal_seq, r.error,
  r.created_at, r.ended_at
FROM run r JOIN thread t ON t.key = r.thread_key JOIN "user" u ON u.key = r.user_key
WHERE r.id = $1 AND u.id = $2 AND t.deleted_at IS NULL

-- name: list_runs
SELECT r.id, t.id, $1, r.agent, r.status, r.attempt, r.message, r.seq, r.started_seq, r.terminal_seq, r.error,
  r.created_at, r.ended_at
FROM run r JOIN thread t ON t.key = r.thread_key
WHERE r.user_key = (SELECT u.key FROM "user" u WHERE u.id = $1) AND t.deleted_at IS NULL
  AND ($2::text IS NULL OR t.id = $2) AND ($3::text IS NULL OR r.status = $3) AND ($4::text IS NULL OR r.agent = $4)
  AND r.key < CASE WHEN $5::text IS NULL THEN 9223372036854775807 ELSE (
    SELECT b.key FROM run b WHERE b.id = $5 AND b.user_key = (SELECT u.key FROM "user" u WHERE u.id = $1)) END
ORDER BY r.key DESC LIMIT $6
