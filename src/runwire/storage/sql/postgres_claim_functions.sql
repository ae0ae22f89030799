-- How a worker comes to its runs on PostgreSQL; a migration executes each block. The rules of `postgres_functions.sql`
-- hold here too. Databases of the time before members have a claim that asks for no agents: it goes first.

-- name: drop_claim
DROP FUNCTION IF EXISTS runwire_claim(text, bigint, bigint, text[], bigint, boolean, bigint)

-- name: drop_people
DROP FUNCTION IF EXISTS runwire_people(boolean, bigint, bigint)

-- name: drop_serve
DROP FUNCTION IF EXISTS runwire_serve(bigint[])

-- Whether a worker may take what no other member has: only one that has itself been a member for as long as its word is
-- good, without a gap of half of that. So after an outage or a step of this clock everybody else has announced itself
-- first; and a claim that was sent before an outage and is executed after it takes nothing either.
-- name: runwire_is_steady
CREATE FUNCTION runwire_is_steady(p_worker text, p_now bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT 1 FROM member m
    WHERE m.node = p_worker AND m.left_at IS NULL AND m.seen_at <= p_now + 1000
      AND p_now - m.seen_at <= (m.good_until - m.seen_at) / 2 AND p_now - m.since >= m.good_until - m.seen_at);
END
$$

-- Whether a worker may take runs of an agent: its own, or (if it may) one that nobody else has whose word is good.
-- name: runwire_may_take
CREATE FUNCTION runwire_may_take(
  p_agent text, p_worker text, p_agents text[], p_takes_orphans boolean, p_now bigint
) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN p_agent = ANY (p_agents) OR (p_takes_orphans AND NOT EXISTS (
    SELECT 1 FROM member m
    WHERE m.node <> p_worker AND m.seen_at <= p_now + 1000 AND m.good_until > p_now AND m.agents::jsonb ? p_agent));
END
$$

-- The agents of queued (or woken) runs that a worker may take. It steps from agent to agent through their index: ten
-- thousand runs of an agent that it has not cost it one step. (As here, the first of an order and not a minimum: planned
-- when the tables were empty, a minimum is looked for in all there is.)
-- name: runwire_wanted
CREATE FUNCTION runwire_wanted(
  p_is_woken boolean, p_worker text, p_agents text[], p_takes_orphans boolean, p_now bigint
) RETURNS text[] LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_all text[];
BEGIN
  IF p_is_woken THEN
    WITH RECURSIVE names (agent) AS (
      (SELECT q.agent FROM run q WHERE q.status = 'waiting' AND q.woken_at IS NOT NULL ORDER BY q.agent LIMIT 1)
      UNION ALL
      SELECT (SELECT q.agent FROM run q
        WHERE q.status = 'waiting' AND q.woken_at IS NOT NULL AND q.agent > names.agent ORDER BY q.agent LIMIT 1)
      FROM names WHERE names.agent IS NOT NULL
    )
    SELECT array_agg(agent) INTO v_all FROM names WHERE agent IS NOT NULL;
  ELSE
    WITH RECURSIVE names (agent) AS (
      (SELECT q.agent FROM run q WHERE q.status = 'queued' ORDER BY q.agent LIMIT 1)
      UNION ALL
      SELECT (SELECT q.agent FROM run q WHERE q.status = 'queued' AND q.agent > names.agent ORDER BY q.agent LIMIT 1)
      FROM names WHERE names.agent IS NOT NULL
    )
    SELECT array_agg(agent) INTO v_all FROM names WHERE agent IS NOT NULL;
  END IF;
  RETURN ARRAY(SELECT a.name FROM unnest(v_all) AS a (name)
    WHERE runwire_may_take(a.name, p_worker, p_agents, p_takes_orphans, p_now));
END
$$

-- Takes runs of agents that its worker may take: lost ones, then parked ones that were woken, then queued ones; see
-- `Runs.claim`. What a worker says that it
-- holds was so at a time (p_as_of): a claim may be executed long after that, and what a later one gave the same worker is
-- not lost. A last row without a run: there were more, of users whose row another claimer held at this moment. A user's row is locked
-- before their running runs are counted, and nobody starts one of theirs without that lock: so the limit is exact. No
-- lock of the thread is needed: its oldest queued run, unchanged under its own lock, proves that no other was started.
-- (The plus keeps the planner from walking, for the order's sake, through all runs there ever were.)
-- name: runwire_claim
CREATE FUNCTION runwire_claim(
  p_worker text, p_agents text[], p_take_orphans boolean, p_limit bigint, p_user_limit bigint, p_holding text[],
  p_as_of bigint, p_take_lost boolean, p_lease_ms bigint
) RETURNS TABLE (
  run text, thread text, person text, agent text, message text, attempt bigint, ordinal bigint, created_at bigint,
  has_pinned boolean, cancel_by text, cancel_reason text, handed_over text, is_resumed boolean, lost text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_now bigint := runwire_now();
  v_takes_orphans boolean := p_take_orphans AND runwire_is_steady(p_worker, v_now);
  v_agents text[];
  v_keys bigint[] := '{}';
  v_some bigint[];
  v_people bigint[];
  v_handed text[];
  v_woken bigint := 0;
  v_is_passed_over boolean := false;
BEGIN
  SELECT coalesce(array_agg(l.key ORDER BY l.key), '{}') INTO v_keys FROM (
    SELECT r.key FROM run r
    WHERE r.status = 'running' AND (
      r.worker IS NULL
      OR (r.worker <> p_worker AND p_take_lost AND r.lease_until < v_now)
      OR (r.worker = p_worker AND r.lease_until - p_lease_ms <= p_as_of AND r.id <> ALL (p_holding)))
      AND (r.cancel_by IS NOT NULL OR runwire_may_take(r.agent, p_worker, p_agents, v_takes_orphans, v_now))
    ORDER BY r.key + 0 LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  ) l;
  IF cardinality(v_keys) < p_limit THEN
    v_agents := runwire_wanted(true, p_worker, p_agents, v_takes_orphans, v_now);
    v_people := runwire_people(true, v_agents, p_limit - cardinality(v_keys), p_user_limit);
    v_is_passed_over := 0 = ANY (v_people);
    IF cardinality(v_people) > 0 THEN
      SELECT coalesce(array_agg(l.key ORDER BY l.place, l.turn, l.woken_at, l.key), '{}') INTO v_some FROM (
        SELECT c.place, c.turn, c.woken_at, r.key
        FROM (
          SELECT w.key, w.woken_at, u.turn, row_number() OVER (PARTITION BY u.key ORDER BY w.woken_at, w.key) AS place,
            (SELECT count(*) FROM run a WHERE a.user_key = u.key AND a.status = 'running') AS active
          FROM unnest(v_people) AS p (key) JOIN "user" u ON u.key = p.key CROSS JOIN LATERAL (
            SELECT o.key, o.woken_at FROM unnest(v_agents) AS a (name) CROSS JOIN LATERAL (
              SELECT q.key, q.woken_at FROM run q
              WHERE q.agent = a.name AND q.user_key = u.key AND q.status = 'waiting' AND q.woken_at IS NOT NULL
              ORDER BY q.woken_at, q.key LIMIT least(p_user_limit, p_limit)
            ) o
            ORDER BY o.woken_at, o.key LIMIT least(p_user_limit, p_limit)
          ) w
        ) c JOIN run r ON r.key = c.key
        WHERE c.place + c.active <= p_user_limit AND coalesce(r.status, '') = 'waiting' AND r.woken_at IS NOT NULL
        ORDER BY c.place, c.turn, c.woken_at, c.key LIMIT p_limit - cardinality(v_keys)
        FOR NO KEY UPDATE OF r SKIP LOCKED
      ) l;
      v_woken := cardinality(v_some);
      PERFORM runwire_serve(v_some);
    END IF;
  END IF;
  v_handed := ARRAY(SELECT r.handed_over FROM unnest(v_keys) WITH ORDINALITY AS k (key, n) JOIN run r ON r.key = k.key
    ORDER BY k.n);
  UPDATE run r SET status = 'running', attempt = r.attempt + 1, worker = p_worker, lease_until = v_now + p_lease_ms,
    handed_over = NULL, woken_at = NULL, closing = NULL,
    lost = CASE WHEN r.status = 'running' AND r.worker <> p_worker
      THEN substring(r.lost || r.attempt || ',' FROM '(?:[0-9]+,){1,64}$') ELSE r.lost END
  WHERE r.key = ANY (v_keys || v_some);
  v_keys := v_keys || v_some;
  v_handed := v_handed || array_fill(NULL::text, ARRAY[v_woken::int]);
  v_some := '{}';
  IF cardinality(v_keys) < p_limit THEN
    v_agents := runwire_wanted(false, p_worker, p_agents, v_takes_orphans, v_now);
    v_people := runwire_people(false, v_agents, p_limit - cardinality(v_keys), p_user_limit);
    v_is_passed_over := v_is_passed_over OR 0 = ANY (v_people);
    IF cardinality(v_people) > 0 THEN
      SELECT coalesce(array_agg(l.key ORDER BY l.place, l.turn, l.key), '{}') INTO v_some FROM (
        SELECT c.place, c.turn, r.key
        FROM (
          SELECT w.key, u.turn, row_number() OVER (PARTITION BY u.key ORDER BY w.key) AS place,
            (SELECT count(*) FROM run a WHERE a.user_key = u.key AND a.status = 'running') AS active
          FROM unnest(v_people) AS p (key) JOIN "user" u ON u.key = p.key CROSS JOIN LATERAL (
            SELECT n.key FROM unnest(v_agents) AS a (name) CROSS JOIN LATERAL (
              SELECT q.key FROM run q
              WHERE q.agent = a.name AND q.user_key = u.key AND q.status = 'queued'
                AND runwire_is_next(q.thread_key, q.key)
              ORDER BY q.key LIMIT least(p_user_limit, p_limit)
            ) n
            ORDER BY n.key LIMIT least(p_user_limit, p_limit)
          ) w
        ) c JOIN run r ON r.key = c.key
        WHERE c.place + c.active <= p_user_limit AND coalesce(r.status, '') = 'queued'
        ORDER BY c.place, c.turn, c.key LIMIT p_limit - cardinality(v_keys)
        FOR NO KEY UPDATE OF r SKIP LOCKED
      ) l;
      PERFORM runwire_serve(v_some);
      UPDATE run r SET status = 'running', attempt = r.attempt + 1, worker = p_worker, lease_until = v_now + p_lease_ms
      WHERE r.key = ANY (v_some);
      v_keys := v_keys || v_some;
    END IF;
  END IF;
  RETURN QUERY
  SELECT r.id, t.id, u.id, r.agent, r.message, r.attempt, r.ordinal, r.created_at, p.run_key IS NOT NULL, r.cancel_by, r.cancel_reason,
    v_handed[k.n], k.n > cardinality(v_handed) - v_woken AND k.n <= cardinality(v_handed), r.lost
  FROM unnest(v_keys) WITH ORDINALITY AS k (key, n) JOIN run r ON r.key = k.key JOIN thread t ON t.key = r.thread_key
    JOIN "user" u ON u.key = r.user_key LEFT JOIN pinned p ON p.run_key = r.key
  ORDER BY k.n;
  IF v_is_passed_over AND cardinality(v_keys) < p_limit THEN
    run := NULL;
    RETURN NEXT;
  END IF;
END
$$

-- Whether a queued run is the one that its thread goes on with. A function, and its questions asked one after the other:
-- as part of a query they became joins, which walked through all runs that are queued or active (10,000: a second).
-- name: runwire_is_next
CREATE FUNCTION runwire_is_next(p_thread bigint, p_run bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  PERFORM 1 FROM run a WHERE a.thread_key = p_thread AND a.status IN ('running', 'waiting') LIMIT 1;
  IF FOUND THEN
    RETURN false;
  END IF;
  RETURN p_run = (SELECT o.key FROM run o WHERE o.thread_key = p_thread AND o.status = 'queued'
    ORDER BY o.thread_key, o.key LIMIT 1);
END
$$

-- Whether a user has a run to start: of one of these agents, and first in its thread.
-- name: runwire_has_next
CREATE FUNCTION runwire_has_next(p_user bigint, p_agents text[]) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT 1 FROM unnest(p_agents) AS n (name) CROSS JOIN LATERAL (
      SELECT 1 FROM run q
      WHERE q.agent = n.name AND q.user_key = p_user AND q.status = 'queued' AND runwire_is_next(q.thread_key, q.key)
      LIMIT 1
    ) f);
END
$$

-- Locks those users, at most so many, who were served longest ago and have a run of these agents to start. For each agent
-- it steps from user to user through the index of its runs, so that one user's thousand queued runs cost nobody else, and
-- looks closer at each in turn until it has enough; whose row another claimer holds is left to that one. A key of 0 stands
-- for such a user, if those that are locked are too few.
-- name: runwire_people
CREATE FUNCTION runwire_people(
  p_is_woken boolean, p_agents text[], p_limit bigint, p_user_limit bigint
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_all bigint[];
  v_people bigint[];
  v_is_held boolean := false;
BEGIN
  IF p_is_woken THEN
    WITH RECURSIVE people (agent, key) AS (
      SELECT n.name, (SELECT q.user_key FROM run q
        WHERE q.agent = n.name AND q.status = 'waiting' AND q.woken_at IS NOT NULL ORDER BY q.agent, q.user_key LIMIT 1)
      FROM unnest(p_agents) AS n (name)
      UNION ALL
      SELECT p.agent, (SELECT q.user_key FROM run q
        WHERE q.agent = p.agent AND q.status = 'waiting' AND q.woken_at IS NOT NULL AND q.user_key > p.key
        ORDER BY q.agent, q.user_key LIMIT 1)
      FROM people p WHERE p.key IS NOT NULL
    )
    SELECT array_agg(DISTINCT p.key) INTO v_all FROM people p WHERE p.key IS NOT NULL;
  ELSE
    WITH RECURSIVE people (agent, key) AS (
      SELECT n.name, (SELECT q.user_key FROM run q
        WHERE q.agent = n.name AND q.status = 'queued' ORDER BY q.agent, q.user_key LIMIT 1)
      FROM unnest(p_agents) AS n (name)
      UNION ALL
      SELECT p.agent, (SELECT q.user_key FROM run q
        WHERE q.agent = p.agent AND q.status = 'queued' AND q.user_key > p.key ORDER BY q.agent, q.user_key LIMIT 1)
      FROM people p WHERE p.key IS NOT NULL
    )
    SELECT array_agg(DISTINCT p.key) INTO v_all FROM people p WHERE p.key IS NOT NULL;
  END IF;
  IF v_all IS NULL THEN
    RETURN '{}';
  END IF;
  SELECT coalesce(array_agg(l.key), '{}') INTO v_people FROM (
    SELECT u.key
    FROM (
      SELECT o.key FROM unnest(v_all) AS k (key) JOIN "user" o ON o.key = k.key ORDER BY o.turn, o.key OFFSET 0
    ) w JOIN "user" u ON u.key = w.key
    WHERE (SELECT count(*) FROM run a WHERE a.user_key = w.key AND a.status = 'running') < p_user_limit
      AND (p_is_woken OR runwire_has_next(w.key, p_agents))
    LIMIT p_limit FOR NO KEY UPDATE OF u SKIP LOCKED
  ) l;
  IF cardinality(v_people) < p_limit THEN
    SELECT count(*) > 0 INTO v_is_held FROM (
      SELECT 1 FROM unnest(v_all) AS k (key)
      WHERE k.key <> ALL (v_people)
        AND (SELECT count(*) FROM run a WHERE a.user_key = k.key AND a.status = 'running') < p_user_limit
        AND (p_is_woken OR runwire_has_next(k.key, p_agents))
      LIMIT 1
    ) o;
  END IF;
  RETURN CASE WHEN v_is_held THEN v_people || 0::bigint ELSE v_people END;
END
$$

-- Notes whose turn it was, in this order. Of the turns only their order counts.
-- name: runwire_serve
CREATE FUNCTION runwire_serve(p_keys bigint[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  UPDATE "user" u SET turn = s.turn FROM (
    SELECT o.user_key, max(o.turn) AS turn FROM (
      SELECT r.user_key, nextval('runwire_turn') AS turn
      FROM (SELECT r.user_key FROM unnest(p_keys) WITH ORDINALITY AS k (key, n) JOIN run r ON r.key = k.key
        ORDER BY k.n) r
    ) o GROUP BY o.user_key
  ) s
  WHERE u.key = s.user_key;
END
$$
