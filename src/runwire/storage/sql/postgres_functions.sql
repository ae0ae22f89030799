-- The functions with which the PostgreSQL adapter writes: one call, one statement, one commit, so that a process which
-- is stopped between two round trips holds no lock. What they return is small: rows are sent before the commit, so that a
-- stopped client that does not take them would hold it up. A migration executes each block; a later change is a later migration.
-- Row locks are FOR NO KEY UPDATE (what foreign keys check with passes beside them), in the order user, thread, run,
-- each by its key. Who must never wait (append, claim, timers) skips what is locked; whoever else waits, `lock_timeout`.
-- After a lock was waited for, what it guards is read in a new statement: only that sees what was committed meanwhile.
-- `coalesce` around a column keeps the planner off its indexes where rows are to be found by their ids or keys.

-- The database's clock, ms UTC; not the transaction's, which began before it waited.
-- name: runwire_now
CREATE FUNCTION runwire_now() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$

-- The birthplace of every seq: nothing else moves a thread's head. The caller holds the locks of threads and runs. Given
-- are stretches of events, stored in this order; the seqs of each come back by its place, from 1.
-- name: runwire_extend
CREATE FUNCTION runwire_extend(
  p_threads bigint[], p_runs bigint[], p_attempts bigint[], p_ordinals bigint[], p_sizes bigint[], p_flags bigint[],
  p_packed bytea[], p_now bigint
) RETURNS TABLE (place bigint, first_seq bigint, last_seq bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  IF cardinality(p_threads) = 1 THEN  -- a message, a step: in two plain statements it takes half of the time
    UPDATE thread t SET head = t.head + p_sizes[1], updated_at = p_now WHERE t.key = p_threads[1]
    RETURNING t.head INTO STRICT last_seq;
    place := 1;
    first_seq := last_seq - p_sizes[1] + 1;
    INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, ordinal, flags, events)
    VALUES (p_threads[1], first_seq, last_seq, p_runs[1], p_attempts[1], p_ordinals[1], p_flags[1], p_packed[1]);
    RETURN NEXT;
    RETURN;
  END IF;
  RETURN QUERY
  WITH moved AS (
    UPDATE thread t SET head = t.head + m.size, updated_at = p_now
    FROM (
      SELECT g.thread_key, sum(g.size)::bigint AS size, array_agg(g.place ORDER BY g.place) AS places
      FROM unnest(p_threads, p_sizes) WITH ORDINALITY AS g (thread_key, size, place)
      GROUP BY g.thread_key
    ) m
    WHERE t.key = m.thread_key
    RETURNING t.key, t.head - m.size AS head, m.places
  ), placed AS (
    SELECT p.place, m.key,
      (m.head + sum(p_sizes[p.place]) OVER (PARTITION BY m.key ORDER BY p.place))::bigint AS last_seq
    FROM moved m CROSS JOIN LATERAL unnest(m.places) AS p (place)
  ), added AS (
    INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, ordinal, flags, events)
    SELECT key, last_seq - p_sizes[place] + 1, last_seq, p_runs[place], p_attempts[place], p_ordinals[place],
      p_flags[place], p_packed[place]
    FROM placed ORDER BY place
  )
  SELECT placed.place, placed.last_seq - p_sizes[placed.place] + 1, placed.last_seq FROM placed ORDER BY placed.place;
END
$$

-- Decides an append: only the holder of the attempt, only once, only while the run is not over. A lease that has run out
-- refuses nothing as long as nobody took the run. Of what comes beside the batches each row names its batch by place.
-- name: runwire_append
CREATE FUNCTION runwire_append(
  p_runs text[], p_attempts bigint[], p_ordinals bigint[], p_sizes bigint[], p_flags bigint[], p_packed bytea[],
  p_ends text[], p_errors text[], p_pinned bytea[],
  p_blob_places bigint[], p_blob_refs text[], p_blobs bytea[],
  p_wait_places bigint[], p_waits text[], p_wait_kinds text[], p_wait_due bigint[],
  p_close_places bigint[], p_closes text[]
) RETURNS TABLE (place bigint, outcome text, first_seq bigint, last_seq bigint, thread text, person text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_now bigint := runwire_now();
  v_threads bigint[];
  v_locked bigint[];
  v_overtaken bigint[] := '{}';
  v_places bigint[];
  v_keys bigint[];
  v_thread_keys bigint[];
  v_thread_ids text[];
  v_people text[];
  v_first bigint[];
  v_last bigint[];
BEGIN
  SELECT coalesce(array_agg(l.key), '{}') INTO v_threads FROM (
    SELECT t.key FROM unnest(p_runs) AS b (run) JOIN run r ON r.id = b.run JOIN thread t ON t.key = r.thread_key
    ORDER BY t.key FOR NO KEY UPDATE OF t SKIP LOCKED
  ) l;
  SELECT coalesce(array_agg(l.place), '{}'),
    coalesce(array_agg(l.place ORDER BY l.place) FILTER (WHERE l.is_held), '{}'),
    array_agg(l.key ORDER BY l.place) FILTER (WHERE l.is_held),
    array_agg(l.thread_key ORDER BY l.place) FILTER (WHERE l.is_held),
    array_agg(l.thread ORDER BY l.place) FILTER (WHERE l.is_held),
    array_agg(l.person ORDER BY l.place) FILTER (WHERE l.is_held)
  INTO v_locked, v_places, v_keys, v_thread_keys, v_thread_ids, v_people
  FROM (
    SELECT b.place, r.key, r.thread_key, t.id AS thread, u.id AS person,
      r.attempt = b.attempt AND r.ordinal = b.ordinal AND r.status = 'running' AND r.worker IS NOT NULL AS is_held
    FROM unnest(p_runs, p_attempts, p_ordinals) WITH ORDINALITY AS b (run, attempt, ordinal, place)
      JOIN run r ON r.id = b.run JOIN thread t ON t.key = r.thread_key JOIN "user" u ON u.key = r.user_key
    WHERE coalesce(r.thread_key, 0) = ANY (v_threads)
    ORDER BY r.key FOR NO KEY UPDATE OF r SKIP LOCKED
  ) l;
  IF cardinality(p_closes) > 0 AND cardinality(v_places) > 0 THEN
    SELECT coalesce(array_agg(DISTINCT c.place), '{}') INTO v_overtaken
    FROM unnest(p_close_places, p_closes) AS c (place, id) JOIN wait w ON w.id = c.id
    WHERE w."by" <> 'ended' AND w.run_key = v_keys[array_position(v_places, c.place)];
    SELECT coalesce(array_agg(k.place ORDER BY k.n), '{}'), array_agg(k.key ORDER BY k.n),
      array_agg(k.thread_key ORDER BY k.n), array_agg(k.thread ORDER BY k.n), array_agg(k.person ORDER BY k.n)
    INTO v_places, v_keys, v_thread_keys, v_thread_ids, v_people
    FROM unnest(v_places, v_keys, v_thread_keys, v_thread_ids, v_people) WITH ORDINALITY
      AS k (place, key, thread_key, thread, person, n)
    WHERE k.place <> ALL (v_overtaken);
  END IF;
  IF cardinality(v_places) > 0 THEN
    SELECT array_agg(e.first_seq ORDER BY e.place), array_agg(e.last_seq ORDER BY e.place) INTO v_first, v_last
    FROM runwire_extend(
      v_thread_keys, v_keys,
      ARRAY(SELECT p_attempts[k.place] FROM unnest(v_places) WITH ORDINALITY AS k (place, n) ORDER BY k.n),
      ARRAY(SELECT p_ordinals[k.place] FROM unnest(v_places) WITH ORDINALITY AS k (place, n) ORDER BY k.n),
      ARRAY(SELECT p_sizes[k.place] FROM unnest(v_places) WITH ORDINALITY AS k (place, n) ORDER BY k.n),
      ARRAY(SELECT p_flags[k.place] FROM unnest(v_places) WITH ORDINALITY AS k (place, n) ORDER BY k.n),
      ARRAY(SELECT p_packed[k.place] FROM unnest(v_places) WITH ORDINALITY AS k (place, n) ORDER BY k.n),
      v_now
    ) e;
    UPDATE run r SET
      ordinal = r.ordinal + p_sizes[k.place],
      started_seq = CASE WHEN p_flags[k.place] & 1 <> 0 THEN coalesce(r.started_seq, k.first_seq) ELSE r.started_seq END
    FROM unnest(v_places, v_keys, v_first) AS k (place, key, first_seq)
    WHERE r.key = k.key AND p_ends[k.place] IS NULL;
    IF array_remove(p_ends, NULL) <> '{}' THEN
      UPDATE run r SET
        ordinal = r.ordinal + p_sizes[k.place],
        started_seq = CASE WHEN p_flags[k.place] & 1 <> 0 THEN coalesce(r.started_seq, k.first_seq) ELSE r.started_seq END,
        status = p_ends[k.place], terminal_seq = coalesce(r.terminal_seq, k.last_seq), error = p_errors[k.place],
        ended_at = v_now, worker = NULL, lease_until = NULL, woken_at = NULL, closing = NULL
      FROM unnest(v_places, v_keys, v_first, v_last) AS k (place, key, first_seq, last_seq)
      WHERE r.key = k.key AND p_ends[k.place] IS NOT NULL;
    END IF;
    IF p_pinned IS NOT NULL THEN
      INSERT INTO pinned (run_key, data)
      SELECT k.key, p_pinned[k.place] FROM unnest(v_places, v_keys) AS k (place, key)
      WHERE p_pinned[k.place] IS NOT NULL
      ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(p_blobs) > 0 THEN
      INSERT INTO blob (user_key, run_key, ref, data)
      SELECT r.user_key, r.key, b.ref, b.data
      FROM unnest(p_blob_places, p_blob_refs, p_blobs) AS b (place, ref, data)
        JOIN run r ON r.key = v_keys[array_position(v_places, b.place)]
      ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(p_waits) > 0 THEN
      INSERT INTO wait (run_key, id, kind, due_at)
      SELECT v_keys[array_position(v_places, w.place)], w.id, w.kind, w.due_at
      FROM unnest(p_wait_places, p_waits, p_wait_kinds, p_wait_due) AS w (place, id, kind, due_at)
      WHERE w.place = ANY (v_places);
    END IF;
    IF cardinality(p_closes) > 0 THEN
      UPDATE wait w SET "by" = 'ended'
      FROM unnest(p_close_places, p_closes) AS c (place, id)
      WHERE w.id = c.id AND w."by" IS NULL AND w.run_key = v_keys[array_position(v_places, c.place)];
    END IF;
    IF array_remove(p_ends, NULL) <> '{}' THEN
      UPDATE wait w SET "by" = 'ended'
      FROM unnest(v_places, v_keys) AS k (place, key)
      WHERE w.run_key = k.key AND w."by" IS NULL AND p_ends[k.place] IS NOT NULL;
    END IF;
    RETURN QUERY SELECT k.place, 'stored', k.first_seq, k.last_seq, k.thread, k.person
    FROM unnest(v_places, v_first, v_last, v_thread_ids, v_people) AS k (place, first_seq, last_seq, thread, person);
  END IF;
  IF cardinality(v_places) < cardinality(p_runs) THEN
    RETURN QUERY
    SELECT b.place,
      CASE
        WHEN r.key IS NULL THEN 'fenced'
        WHEN b.place <> ALL (v_locked) THEN 'busy'
        WHEN b.place = ANY (v_overtaken) THEN 'overtaken'
        WHEN s.first_seq IS NULL THEN 'fenced'
        ELSE 'already'
      END,
      s.first_seq, s.last_seq, NULL::text, NULL::text
    FROM unnest(p_runs, p_attempts, p_ordinals, p_sizes) WITH ORDINALITY AS b (run, attempt, ordinal, size, place)
      LEFT JOIN run r ON r.id = b.run
      LEFT JOIN LATERAL (
        SELECT s.first_seq, s.last_seq FROM segment s
        WHERE s.thread_key = r.thread_key AND s.run_key = r.key AND s.first_seq >= coalesce(r.started_seq, r.seq)
          AND s.attempt = b.attempt AND s.ordinal = b.ordinal AND s.last_seq - s.first_seq + 1 = b.size
          AND r.attempt = b.attempt AND r.ordinal >= b.ordinal + b.size AND b.place <> ALL (v_overtaken)
        LIMIT 1
      ) s ON true
    WHERE b.place <> ALL (v_places);
  END IF;
END
$$

-- The key of a person's row, made on first contact.
-- name: runwire_user
CREATE FUNCTION runwire_user(p_user text, p_iss text, p_now bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_key bigint;
BEGIN
  SELECT u.key INTO v_key FROM "user" u WHERE u.id = p_user;
  IF v_key IS NULL THEN
    INSERT INTO "user" (id, iss, sub, created_at) VALUES (p_user, p_iss, p_user, p_now) ON CONFLICT DO NOTHING;
    SELECT u.key INTO STRICT v_key FROM "user" u WHERE u.id = p_user;
  END IF;
  RETURN v_key;
END
$$

-- Ends runs that are queued or parked, in order, and flags those that somebody holds or is about to claim. The caller
-- holds the locks of threads and runs. The terminal event comes in two pieces, with its time between them.
-- name: runwire_call_off
CREATE FUNCTION runwire_call_off(
  p_keys bigint[], p_by text, p_reason text, p_before bytea, p_behind bytea, p_now bigint
) RETURNS TABLE (run_key bigint, first_seq bigint, last_seq bigint, packed bytea) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_event bytea := p_before || convert_to(p_now::text, 'UTF8') || p_behind;
  v_threads bigint[];
  v_keys bigint[];
  v_attempts bigint[];
  v_sizes bigint[];
  v_flags bigint[];
  v_packed bytea[];
  v_first bigint[];
  v_last bigint[];
BEGIN
  UPDATE run SET cancel_by = p_by, cancel_reason = p_reason WHERE key = ANY (p_keys) AND cancel_by IS NULL;
  SELECT array_agg(o.thread_key ORDER BY o.key, o.flags), array_agg(o.key ORDER BY o.key, o.flags),
    array_agg(o.attempt ORDER BY o.key, o.flags), array_agg(o.size ORDER BY o.key, o.flags),
    array_agg(o.flags ORDER BY o.key, o.flags), array_agg(o.packed ORDER BY o.key, o.flags)
  INTO v_threads, v_keys, v_attempts, v_sizes, v_flags, v_packed
  FROM (
    SELECT r.key, r.thread_key, r.attempt, p.size, p.flags, p.packed
    FROM run r CROSS JOIN LATERAL (
      SELECT json_array_length(convert_from(r.closing, 'UTF8')::json)::bigint AS size, 0::bigint AS flags,
        r.closing AS packed
      WHERE r.closing IS NOT NULL
      UNION ALL
      SELECT 1, 2, v_event
    ) p
    WHERE r.key = ANY (p_keys) AND (r.status = 'queued' OR (r.status = 'waiting' AND r.woken_at IS NULL)) AND p.size > 0
  ) o;
  IF v_keys IS NULL THEN
    RETURN;
  END IF;
  SELECT array_agg(e.first_seq ORDER BY e.place), array_agg(e.last_seq ORDER BY e.place) INTO v_first, v_last
  FROM runwire_extend(
    v_threads, v_keys, v_attempts, array_fill(NULL::bigint, ARRAY[cardinality(v_keys)]), v_sizes, v_flags, v_packed, p_now
  ) e;
  UPDATE run r SET status = 'cancelled', terminal_seq = k.last_seq, error = NULL, ended_at = p_now, worker = NULL,
    lease_until = NULL, woken_at = NULL, closing = NULL
  FROM unnest(v_keys, v_flags, v_last) AS k (key, flags, last_seq)
  WHERE r.key = k.key AND k.flags = 2;
  UPDATE wait w SET "by" = 'ended' WHERE w.run_key = ANY (v_keys) AND w."by" IS NULL;
  RETURN QUERY SELECT k.key, k.first_seq, k.last_seq, k.packed
  FROM unnest(v_keys, v_first, v_last, v_packed) AS k (key, first_seq, last_seq, packed);
END
$$

-- Locks the runs of a thread that have not ended; NULL: there are none. In two halves, so that each has its partial index:
-- a thread may have thousands of runs that ended. The caller holds the lock of the thread.
-- name: runwire_lock_unfinished
CREATE FUNCTION runwire_lock_unfinished(p_thread bigint) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_keys bigint[];
BEGIN
  SELECT array_agg(l.key) INTO v_keys FROM (
    SELECT r.key FROM run r
    WHERE r.key = ANY (ARRAY(
        SELECT a.key FROM run a WHERE a.thread_key = p_thread AND a.status IN ('running', 'waiting')
        UNION ALL
        SELECT q.key FROM run q WHERE q.thread_key = p_thread AND q.status = 'queued'))
      AND coalesce(r.status, '') IN ('queued', 'running', 'waiting')
    ORDER BY r.key FOR NO KEY UPDATE
  ) l;
  RETURN v_keys;
END
$$

-- A message and its run. Sends with one key wait for each other, before they lock anything else, so that the second one
-- finds what the first one stored. What was committed comes as arrays, in seq order.
-- name: runwire_send
CREATE FUNCTION runwire_send(
  p_user text, p_iss text, p_thread text, p_new_thread text, p_run text, p_message text, p_agent text, p_on_active text,
  p_key text, p_fingerprint text, p_before bytea, p_behind bytea, p_end_before bytea, p_end_behind bytea
) RETURNS TABLE (
  outcome text, thread text, run text, message text, seq bigint, after bigint, stop text[],
  runs text[], attempts bigint[], firsts bigint[], lasts bigint[], packed bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_now bigint;
  v_user bigint;
  v_thread bigint;
  v_run bigint;
  v_seq bigint;
  v_event bytea;
  v_unfinished bigint[];
BEGIN
  run := p_run;
  message := p_message;
  thread := coalesce(p_thread, p_new_thread);
  after := 0;
  stop := '{}';
  IF p_key IS NOT NULL THEN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_user || ' ' || p_key, 0));
    SELECT CASE WHEN r.fingerprint <> p_fingerprint THEN 'key_used' WHEN t.deleted_at IS NOT NULL THEN 'no_thread'
        ELSE 'known' END, t.id, r.id, r.message, r.seq, r.after
    INTO outcome, thread, run, message, seq, after
    FROM "user" u JOIN run r ON r.user_key = u.key JOIN thread t ON t.key = r.thread_key
    WHERE u.id = p_user AND r.idempotency_key = p_key;
    IF FOUND THEN
      RETURN NEXT;
      RETURN;
    END IF;
    run := p_run;
    message := p_message;
    thread := coalesce(p_thread, p_new_thread);
    after := 0;
  END IF;
  IF p_thread IS NULL THEN
    v_now := runwire_now();
    v_user := runwire_user(p_user, p_iss, v_now);
    INSERT INTO thread (id, user_key, created_at, updated_at) VALUES (p_new_thread, v_user, v_now, v_now)
    RETURNING key INTO v_thread;
  ELSE
    SELECT t.key, t.head, t.user_key INTO v_thread, after, v_user
    FROM thread t JOIN "user" u ON u.key = t.user_key
    WHERE t.id = p_thread AND u.id = p_user AND t.deleted_at IS NULL
    FOR NO KEY UPDATE OF t;
    IF NOT FOUND THEN
      outcome := 'no_thread';
      RETURN NEXT;
      RETURN;
    END IF;
    v_now := runwire_now();
    IF p_on_active <> 'enqueue' THEN
      v_unfinished := runwire_lock_unfinished(v_thread);
      stop := ARRAY(SELECT r.id FROM run r
        WHERE r.key = ANY (v_unfinished) AND coalesce(r.status, '') = 'running' ORDER BY r.key);
      IF p_on_active = 'reject' AND v_unfinished IS NOT NULL THEN
        outcome := 'run_active';
        RETURN NEXT;
        RETURN;
      END IF;
      IF v_unfinished IS NOT NULL THEN
        SELECT array_agg(r.id ORDER BY c.first_seq), array_agg(r.attempt ORDER BY c.first_seq),
          array_agg(c.first_seq ORDER BY c.first_seq), array_agg(c.last_seq ORDER BY c.first_seq),
          array_agg(c.packed ORDER BY c.first_seq)
        INTO runs, attempts, firsts, lasts, packed
        FROM runwire_call_off(v_unfinished, 'policy', 'interrupt', p_end_before, p_end_behind, v_now) c
          JOIN run r ON r.key = c.run_key;
      END IF;
    END IF;
  END IF;
  INSERT INTO run (id, thread_key, user_key, agent, message, after, status, idempotency_key, fingerprint, created_at)
  VALUES (p_run, v_thread, v_user, p_agent, p_message, after, 'queued', p_key, p_fingerprint, v_now)
  RETURNING key INTO v_run;
  v_event := p_before || convert_to(v_now::text, 'UTF8') || p_behind;
  SELECT e.first_seq INTO STRICT v_seq
  FROM runwire_extend(ARRAY[v_thread], ARRAY[v_run], ARRAY[0::bigint], ARRAY[NULL::bigint], ARRAY[1::bigint],
    ARRAY[0::bigint], ARRAY[v_event], v_now) e;
  UPDATE run SET seq = v_seq WHERE key = v_run;
  outcome := 'stored';
  seq := v_seq;
  stop := coalesce(stop, '{}');
  runs := runs || p_run;
  attempts := attempts || 0::bigint;
  firsts := firsts || v_seq;
  lasts := lasts || v_seq;
  packed := packed || v_event;
  RETURN NEXT;
END
$$

-- Cancels one run of this user, or of anybody if none is named, or (without a run) what this user has not ended, so many
-- of them, those behind a key. One row for each that it found, in the order of their keys.
-- name: runwire_cancel
CREATE FUNCTION runwire_cancel(
  p_user text, p_run text, p_by text, p_reason text, p_before bytea, p_behind bytea, p_after bigint, p_limit bigint
) RETURNS TABLE (
  key bigint, run text, thread text, person text, status text, attempt bigint, firsts bigint[], lasts bigint[],
  packed bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_keys bigint[];
  v_unfinished bigint[];
  v_called_off bigint[];
  v_first bigint[];
  v_last bigint[];
  v_packed bytea[];
BEGIN
  IF p_run IS NULL THEN
    SELECT array_agg(l.key) INTO v_keys FROM (
      SELECT r.key FROM run r
      WHERE r.user_key = (SELECT u.key FROM "user" u WHERE u.id = p_user) AND r.key > p_after
        AND r.status IN ('queued', 'running', 'waiting')
      ORDER BY r.key LIMIT p_limit
    ) l;
  ELSE
    SELECT array_agg(r.key) INTO v_keys
    FROM run r JOIN "user" u ON u.key = r.user_key JOIN thread t ON t.key = r.thread_key
    WHERE r.id = p_run AND (p_user IS NULL OR (u.id = p_user AND t.deleted_at IS NULL));
  END IF;
  IF v_keys IS NULL THEN
    RETURN;
  END IF;
  PERFORM 1 FROM thread t WHERE t.key IN (SELECT r.thread_key FROM run r WHERE r.key = ANY (v_keys))
  ORDER BY t.key FOR NO KEY UPDATE;
  SELECT array_agg(l.key) INTO v_unfinished FROM (
    SELECT r.key FROM run r WHERE r.key = ANY (v_keys) AND coalesce(r.status, '') IN ('queued', 'running', 'waiting')
    ORDER BY r.key FOR NO KEY UPDATE
  ) l;
  IF v_unfinished IS NOT NULL THEN
    SELECT array_agg(c.run_key ORDER BY c.run_key, c.first_seq), array_agg(c.first_seq ORDER BY c.run_key, c.first_seq),
      array_agg(c.last_seq ORDER BY c.run_key, c.first_seq), array_agg(c.packed ORDER BY c.run_key, c.first_seq)
    INTO v_called_off, v_first, v_last, v_packed
    FROM runwire_call_off(v_unfinished, p_by, p_reason, p_before, p_behind, runwire_now()) c;
  END IF;
  RETURN QUERY
  SELECT r.key, r.id, t.id, u.id, r.status, r.attempt, c.firsts, c.lasts, c.packed
  FROM run r JOIN thread t ON t.key = r.thread_key JOIN "user" u ON u.key = r.user_key
    LEFT JOIN LATERAL (
      SELECT array_agg(k.first_seq ORDER BY k.first_seq) AS firsts, array_agg(k.last_seq ORDER BY k.first_seq) AS lasts,
        array_agg(k.packed ORDER BY k.first_seq) AS packed
      FROM unnest(v_called_off, v_first, v_last, v_packed) AS k (key, first_seq, last_seq, packed)
      WHERE k.key = r.key
    ) c ON true
  WHERE r.key = ANY (v_keys)
  ORDER BY r.key;
END
$$

-- name: runwire_create_thread
CREATE FUNCTION runwire_create_thread(p_user text, p_iss text, p_thread text, p_title text) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_now bigint := runwire_now();
BEGIN
  INSERT INTO thread (id, user_key, title, created_at, updated_at)
  VALUES (p_thread, runwire_user(p_user, p_iss, v_now), p_title, v_now, v_now);
  RETURN v_now;
END
$$

-- Leaves a tombstone; NULL: there is no such thread of this user. Else the runs whose holders must stop.
-- name: runwire_delete_thread
CREATE FUNCTION runwire_delete_thread(p_user text, p_thread text, p_before bytea, p_behind bytea) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_now bigint;
  v_thread bigint;
  v_unfinished bigint[];
  v_stop text[];
BEGIN
  SELECT t.key INTO v_thread FROM thread t JOIN "user" u ON u.key = t.user_key
  WHERE t.id = p_thread AND u.id = p_user AND t.deleted_at IS NULL
  FOR NO KEY UPDATE OF t;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  v_now := runwire_now();
  v_unfinished := runwire_lock_unfinished(v_thread);
  v_stop := ARRAY(SELECT r.id FROM run r
    WHERE r.key = ANY (v_unfinished) AND coalesce(r.status, '') = 'running' ORDER BY r.key);
  IF v_unfinished IS NOT NULL THEN
    PERFORM runwire_call_off(v_unfinished, 'user', 'thread deleted', p_before, p_behind, v_now);
  END IF;
  UPDATE thread SET title = NULL, deleted_at = v_now, updated_at = v_now WHERE key = v_thread;
  RETURN v_stop;
END
$$

-- name: runwire_turn
CREATE SEQUENCE runwire_turn

-- Puts a run aside. Only after its lock is had does it look at the waits: an answer that came first is then seen, and
-- one that comes later sees that the run is parked.
-- name: runwire_park
CREATE FUNCTION runwire_park(p_run text, p_attempt bigint, p_ordinal bigint, p_waits text[], p_closing bytea)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_key bigint;
  v_is_called_off boolean;
  v_open bigint;
BEGIN
  SELECT r.key, r.cancel_by IS NOT NULL INTO v_key, v_is_called_off FROM run r
  WHERE r.id = p_run AND r.attempt = p_attempt AND r.ordinal = p_ordinal AND coalesce(r.status, '') = 'running'
    AND r.worker IS NOT NULL
  FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN EXISTS (SELECT 1 FROM run r WHERE r.id = p_run AND r.attempt = p_attempt AND coalesce(r.status, '') = 'waiting');
  END IF;
  SELECT count(*) INTO v_open FROM unnest(p_waits) AS a (id) JOIN wait w ON w.id = a.id
  WHERE w.run_key = v_key AND w."by" IS NULL;
  -- Woken at once also without waits, or with one that nobody can answer: it would lie there for good.
  UPDATE run SET status = 'waiting', worker = NULL, lease_until = NULL, closing = p_closing,
    woken_at = CASE WHEN v_is_called_off OR v_open = 0 OR v_open < cardinality(p_waits) THEN runwire_now() END
  WHERE key = v_key;
  RETURN true;
END
$$

-- Closes open waits, says so in the log, and has their runs claimed if they are parked. The caller holds the locks of
-- threads and runs.
-- name: runwire_resume
CREATE FUNCTION runwire_resume(
  p_waits bigint[], p_by text, p_value bytea, p_before bytea[], p_behind bytea[], p_now bigint
) RETURNS TABLE (
  wait text, run text, thread text, person text, attempt bigint, is_parked boolean, first_seq bigint, last_seq bigint,
  packed bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_threads bigint[];
  v_runs bigint[];
  v_attempts bigint[];
  v_ones bigint[];
  v_packed bytea[];
  v_first bigint[];
  v_last bigint[];
BEGIN
  SELECT array_agg(r.thread_key ORDER BY k.n), array_agg(r.key ORDER BY k.n), array_agg(r.attempt ORDER BY k.n),
    array_agg(1::bigint),
    array_agg(p_before[k.n] || convert_to(p_now::text, 'UTF8') || p_behind[k.n] ORDER BY k.n)
  INTO v_threads, v_runs, v_attempts, v_ones, v_packed
  FROM unnest(p_waits) WITH ORDINALITY AS k (key, n) JOIN wait w ON w.key = k.key JOIN run r ON r.key = w.run_key;
  IF v_runs IS NULL THEN
    RETURN;
  END IF;
  UPDATE wait SET "by" = p_by, value = p_value WHERE key = ANY (p_waits);
  UPDATE run SET woken_at = p_now WHERE key = ANY (v_runs) AND coalesce(status, '') = 'waiting' AND woken_at IS NULL;
  SELECT array_agg(e.first_seq ORDER BY e.place), array_agg(e.last_seq ORDER BY e.place) INTO v_first, v_last
  FROM runwire_extend(v_threads, v_runs, v_attempts, array_fill(NULL::bigint, ARRAY[cardinality(v_runs)]), v_ones,
    array_fill(0::bigint, ARRAY[cardinality(v_runs)]), v_packed, p_now) e;
  RETURN QUERY
  SELECT w.id, r.id, t.id, u.id, r.attempt, r.status = 'waiting', v_first[k.n], v_last[k.n], v_packed[k.n]
  FROM unnest(p_waits) WITH ORDINALITY AS k (key, n) JOIN wait w ON w.key = k.key JOIN run r ON r.key = w.run_key
    JOIN thread t ON t.key = r.thread_key JOIN "user" u ON u.key = r.user_key
  ORDER BY k.n;
END
$$

-- Answers a wait of this user's run, if it is open and takes such a value; else says how it stands.
-- name: runwire_answer
CREATE FUNCTION runwire_answer(
  p_user text, p_run text, p_wait text, p_value bytea, p_is_bool boolean, p_before bytea, p_behind bytea
) RETURNS TABLE (
  outcome text, kind text, "by" text, value bytea, thread text, attempt bigint, is_parked boolean, first_seq bigint,
  last_seq bigint, packed bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_thread bigint;
  v_run bigint;
  v_wait bigint;
BEGIN
  SELECT t.key, r.key INTO v_thread, v_run
  FROM run r JOIN "user" u ON u.key = r.user_key JOIN thread t ON t.key = r.thread_key
  WHERE r.id = p_run AND u.id = p_user AND t.deleted_at IS NULL;
  IF NOT FOUND THEN
    RETURN QUERY SELECT 'no_run', NULL::text, NULL::text, NULL::bytea, NULL::text, NULL::bigint, NULL::boolean,
      NULL::bigint, NULL::bigint, NULL::bytea;
    RETURN;
  END IF;
  -- Looked at again: meanwhile the thread may have been deleted, and the run with it.
  PERFORM 1 FROM thread t WHERE t.key = v_thread AND t.deleted_at IS NULL FOR NO KEY UPDATE;
  IF FOUND THEN
    PERFORM 1 FROM run r WHERE r.key = v_run FOR NO KEY UPDATE;
  END IF;
  IF NOT FOUND THEN
    RETURN QUERY SELECT 'no_run', NULL::text, NULL::text, NULL::bytea, NULL::text, NULL::bigint, NULL::boolean,
      NULL::bigint, NULL::bigint, NULL::bytea;
    RETURN;
  END IF;
  SELECT w.key INTO v_wait FROM wait w
  WHERE w.id = p_wait AND w.run_key = v_run AND w."by" IS NULL AND w.kind <> 'timer'
    AND (w.kind <> 'approval' OR p_is_bool);
  IF NOT FOUND THEN
    RETURN QUERY
    SELECT CASE WHEN w.key IS NULL THEN 'no_wait' ELSE 'closed' END, w.kind, w."by", w.value, t.id, r.attempt,
      r.status = 'waiting', NULL::bigint, NULL::bigint, NULL::bytea
    FROM run r JOIN thread t ON t.key = r.thread_key LEFT JOIN wait w ON w.id = p_wait AND w.run_key = r.key
    WHERE r.key = v_run;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT 'resumed', NULL::text, p_user, p_value, d.thread, d.attempt, d.is_parked, d.first_seq, d.last_seq, d.packed
  FROM runwire_resume(ARRAY[v_wait], p_user, p_value, ARRAY[p_before], ARRAY[p_behind], runwire_now()) d;
END
$$

-- Resumes those of these waits whose time has come and that nobody holds at this moment.
-- name: runwire_fire_timers
CREATE FUNCTION runwire_fire_timers(p_waits text[], p_before bytea[], p_behind bytea[]) RETURNS TABLE (
  wait text, run text, thread text, person text, attempt bigint, is_parked boolean, first_seq bigint, last_seq bigint,
  packed bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_now bigint := runwire_now();
  v_threads bigint[];
  v_runs bigint[];
BEGIN
  SELECT array_agg(l.key) INTO v_threads FROM (
    SELECT t.key FROM unnest(p_waits) AS a (id) JOIN wait w ON w.id = a.id JOIN run r ON r.key = w.run_key
      JOIN thread t ON t.key = r.thread_key
    ORDER BY t.key FOR NO KEY UPDATE OF t SKIP LOCKED
  ) l;
  SELECT array_agg(l.key) INTO v_runs FROM (
    SELECT r.key FROM unnest(p_waits) AS a (id) JOIN wait w ON w.id = a.id JOIN run r ON r.key = w.run_key
    WHERE coalesce(r.thread_key, 0) = ANY (v_threads)
    ORDER BY r.key FOR NO KEY UPDATE OF r SKIP LOCKED
  ) l;
  RETURN QUERY
  WITH due AS (
    SELECT array_agg(w.key ORDER BY a.n) AS keys, array_agg(p_before[a.n] ORDER BY a.n) AS before,
      array_agg(p_behind[a.n] ORDER BY a.n) AS behind
    FROM unnest(p_waits) WITH ORDINALITY AS a (id, n) JOIN wait w ON w.id = a.id
    WHERE w.run_key = ANY (v_runs) AND w."by" IS NULL AND w.due_at <= v_now
  )
  SELECT d.* FROM due CROSS JOIN LATERAL runwire_resume(due.keys, 'timer', NULL, due.before, due.behind, v_now) d
  WHERE due.keys IS NOT NULL;
END
$$

-- A stretch of a thread's log: its bounds in a row of their own, then whole segments until one of the limits is passed.
-- STABLE: all of it is read in one snapshot.
-- name: runwire_read
CREATE FUNCTION runwire_read(p_thread text, p_after bigint, p_limit bigint, p_size_bytes bigint) RETURNS TABLE (
  head bigint, floor bigint, first_seq bigint, last_seq bigint, run text, attempt bigint, events bytea
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
  v_thread bigint;
  v_start bigint;
  v_count bigint := 0;
  v_size bigint := 0;
BEGIN
  SELECT t.key, t.head, t.floor INTO v_thread, head, floor FROM thread t WHERE t.id = p_thread AND t.deleted_at IS NULL;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  RETURN NEXT;
  v_start := greatest(p_after, floor);
  FOR first_seq, last_seq, run, attempt, events IN
    SELECT s.first_seq, s.last_seq, r.id, s.attempt, s.events
    FROM segment s JOIN run r ON r.key = s.run_key
    WHERE s.thread_key = v_thread AND s.first_seq >= coalesce(
      (SELECT max(b.first_seq) FROM segment b WHERE b.thread_key = v_thread AND b.first_seq <= v_start + 1), 0)
    ORDER BY s.first_seq
  LOOP
    RETURN NEXT;
    v_count := v_count + last_seq - greatest(first_seq - 1, v_start);
    v_size := v_size + octet_length(events);
    EXIT WHEN v_count >= p_limit OR v_size >= p_size_bytes;
  END LOOP;
END
$$
