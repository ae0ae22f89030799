-- The functions of compaction and retention in PostgreSQL: one call, one commit, short ones. They wait for nobody: whose
-- row is locked is left for a later call. Locks as in `postgres_functions.sql`, and before them one that only these take,
-- so that of each thread's segments one of them is at work: the segments themselves have no locks that would tell.

-- name: runwire_upkeep_of
CREATE FUNCTION runwire_upkeep_of(p_thread bigint) RETURNS boolean LANGUAGE sql VOLATILE AS $$
  SELECT pg_try_advisory_xact_lock(hashtextextended('runwire upkeep ' || p_thread, 0))
$$

-- Puts other pieces in the place of a stretch of an ended run, if the stretch is still what was read of it. Nobody appends
-- to an ended run, so nobody's append waits. Returns whether it was done.
-- name: runwire_replace
CREATE FUNCTION runwire_replace(
  p_run text, p_first bigint, p_last bigint, p_count bigint, p_bytes bigint, p_is_changed boolean, p_is_last boolean,
  p_firsts bigint[], p_lasts bigint[], p_attempts bigint[], p_flags bigint[], p_packed bytea[]
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_run bigint;
  v_thread bigint;
  v_count bigint;
  v_bytes bigint;
BEGIN
  SELECT r.thread_key INTO v_thread FROM run r WHERE r.id = p_run;
  IF NOT FOUND OR NOT runwire_upkeep_of(v_thread) THEN
    RETURN false;
  END IF;
  SELECT r.key INTO v_run FROM run r
  WHERE r.id = p_run AND r.ended_at IS NOT NULL AND r.compacted_at IS NULL
  FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF p_is_changed THEN
    SELECT count(*), coalesce(sum(octet_length(s.events)), 0) INTO v_count, v_bytes FROM segment s
    WHERE s.thread_key = v_thread AND s.run_key = v_run AND s.first_seq BETWEEN p_first AND p_last;
    IF v_count <> p_count OR v_bytes <> p_bytes THEN
      RETURN false;
    END IF;
    DELETE FROM segment s
    WHERE s.thread_key = v_thread AND s.run_key = v_run AND s.first_seq BETWEEN p_first AND p_last;
    INSERT INTO segment (thread_key, first_seq, last_seq, run_key, attempt, ordinal, flags, events)
    SELECT v_thread, n.first_seq, n.last_seq, v_run, n.attempt, NULL, n.flags, n.packed
    FROM unnest(p_firsts, p_lasts, p_attempts, p_flags, p_packed) WITH ORDINALITY
      AS n (first_seq, last_seq, attempt, flags, packed, place)
    ORDER BY n.place;
  END IF;
  IF p_is_last THEN
    UPDATE run SET compacted_at = runwire_now() WHERE key = v_run;
  END IF;
  RETURN true;
END
$$

-- Raises a thread's floor, then deletes below it: events, blobs, runs, as much as one call may. No row: somebody is at
-- the thread, or a run of it goes on, whose replay must read the history that its first attempt read. Its queued runs
-- are locked meanwhile, so that no claim comes between the look and the floor.
-- name: runwire_trim
CREATE FUNCTION runwire_trim(p_thread bigint, p_through bigint, p_rows bigint, p_bytes bigint)
RETURNS TABLE (is_done boolean, floor bigint, runs bigint, freed_bytes bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_queued bigint;
  v_locked bigint;
  v_runs bigint[];
BEGIN
  runs := 0;
  freed_bytes := 0;
  IF NOT runwire_upkeep_of(p_thread) THEN
    RETURN;
  END IF;
  SELECT t.floor INTO floor FROM thread t WHERE t.key = p_thread FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF floor < p_through THEN
    SELECT count(*) INTO v_queued FROM run r WHERE r.thread_key = p_thread AND r.status = 'queued';
    SELECT count(*) INTO v_locked FROM (
      SELECT 1 FROM run r WHERE r.thread_key = p_thread AND coalesce(r.status, '') = 'queued'
      ORDER BY r.key FOR NO KEY UPDATE SKIP LOCKED
    ) l;
    IF v_locked < v_queued
      OR EXISTS (SELECT 1 FROM run r WHERE r.thread_key = p_thread AND r.status IN ('running', 'waiting')) THEN
      RETURN;
    END IF;
    UPDATE thread SET floor = p_through WHERE key = p_thread;
    floor := p_through;
  END IF;
  is_done := false;
  WITH below AS (
    SELECT s.key, sum(octet_length(s.events)) OVER (ORDER BY s.first_seq) - octet_length(s.events) AS before
    FROM segment s WHERE s.thread_key = p_thread AND s.first_seq <= floor ORDER BY s.first_seq LIMIT p_rows
  ), gone AS (
    DELETE FROM segment s USING below b WHERE s.key = b.key AND b.before < p_bytes RETURNING octet_length(s.events) AS size
  )
  SELECT coalesce(sum(size), 0)::bigint INTO freed_bytes FROM gone;
  IF EXISTS (SELECT 1 FROM segment s WHERE s.thread_key = p_thread AND s.first_seq <= floor) THEN
    RETURN NEXT;
    RETURN;
  END IF;
  v_runs := ARRAY(
    SELECT r.key FROM run r
    WHERE r.thread_key = p_thread AND r.terminal_seq <= floor AND r.key < coalesce((
      SELECT k.key FROM run k
      WHERE k.thread_key = p_thread AND (k.terminal_seq IS NULL OR k.terminal_seq > floor) ORDER BY k.key LIMIT 1
    ), 9223372036854775807)
    ORDER BY r.key LIMIT p_rows);
  WITH below AS (
    SELECT b.key, sum(octet_length(b.data)) OVER (ORDER BY b.key) - octet_length(b.data) AS before
    FROM blob b WHERE b.run_key = ANY (v_runs) ORDER BY b.key LIMIT p_rows
  ), gone AS (
    DELETE FROM blob b USING below w WHERE b.key = w.key AND w.before < p_bytes RETURNING octet_length(b.data) AS size
  )
  SELECT freed_bytes + coalesce(sum(size), 0)::bigint INTO freed_bytes FROM gone;
  IF EXISTS (SELECT 1 FROM blob b WHERE b.run_key = ANY (v_runs)) THEN
    RETURN NEXT;
    RETURN;
  END IF;
  DELETE FROM pinned WHERE run_key = ANY (v_runs);
  DELETE FROM wait WHERE run_key = ANY (v_runs);
  DELETE FROM run WHERE key = ANY (v_runs);
  runs := cardinality(v_runs);
  is_done := runs < p_rows;
  IF is_done THEN
    UPDATE thread SET purged_at = runwire_now()
    WHERE key = p_thread AND deleted_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread_key = p_thread);
  END IF;
  RETURN NEXT;
END
$$

-- No index leads from a run to its segments, which would cost every append: this reference made the end of each run a
-- walk through all segments. The functions keep it: only they insert segments, and delete them before their run.
-- name: drop_run_of_segment
ALTER TABLE segment DROP CONSTRAINT segment_run_key_fkey
