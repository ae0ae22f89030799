-- Who serves this database. Times are of its own clock.

-- One statement: a process that is stopped in the middle of it holds no lock. Who is removed by two at once is left to
-- one of them. A second's step back of the clock is no gap.
-- name: announce
WITH clock AS MATERIALIZED (
  SELECT runwire_now() AS now
), before AS MATERIALIZED (
  SELECT agents, default_agent FROM member WHERE node = $1 AND left_at IS NULL
), said AS (
  INSERT INTO member (node, roles, agents, default_agent, version, code, since, seen_at, good_until)
  SELECT $1, $2, $3, $4, $5, $6, now, now, now + $7::bigint FROM clock
  ON CONFLICT (node) DO UPDATE SET
    roles = excluded.roles, agents = excluded.agents, default_agent = excluded.default_agent,
    version = excluded.version, code = excluded.code, seen_at = excluded.seen_at, good_until = excluded.good_until,
    left_at = NULL,
    since = CASE WHEN member.left_at IS NULL
        AND excluded.seen_at - member.seen_at BETWEEN -1000 AND (member.good_until - member.seen_at) / 2
      THEN member.since ELSE excluded.since END
), unseen AS (
  DELETE FROM member WHERE node IN (
    SELECT m.node FROM member m
    WHERE m.node <> $1 AND m.seen_at < greatest((SELECT now - $8::bigint FROM clock),
      (SELECT o.seen_at FROM member o ORDER BY o.seen_at DESC OFFSET $9::bigint LIMIT 1))
    FOR UPDATE SKIP LOCKED)
)
SELECT NOT EXISTS (SELECT 1 FROM before WHERE agents = $3 AND default_agent IS NOT DISTINCT FROM $4)

-- name: leave
UPDATE member m SET left_at = c.now, seen_at = c.now, good_until = c.now + m.good_until - m.seen_at
FROM (SELECT runwire_now() AS now OFFSET 0) c
WHERE m.node = $1 AND m.left_at IS NULL

-- What is said several times is read once.
-- name: offered
WITH clock AS MATERIALIZED (
  SELECT runwire_now() AS now
)
SELECT DISTINCT m.agents, m.default_agent,
  m.left_at IS NULL AND m.seen_at <= c.now + 1000 AND m.good_until > c.now AS is_live,
  m.left_at IS NOT NULL AND m.good_until <= c.now AS is_gone
FROM clock c JOIN member m ON m.seen_at > c.now - $1::bigint AND m.agents <> '[]'

-- name: members
WITH clock AS MATERIALIZED (
  SELECT runwire_now() AS now
)
SELECT m.node, m.roles, m.agents, m.default_agent, m.version, m.code, m.since, m.seen_at, m.left_at,
  m.left_at IS NULL AND m.seen_at <= c.now + 1000 AND m.good_until > c.now AS is_live
FROM clock c CROSS JOIN member m ORDER BY m.seen_at DESC, m.node LIMIT $1
