-- Who serves this file. Times are of the machine's clock, given with each statement.

-- name: said_before
SELECT agents, default_agent FROM member WHERE node = ?1 AND left_at IS NULL

-- name: announce
INSERT INTO member (node, roles, agents, default_agent, version, code, since, seen_at, good_until)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?7 + ?8)
ON CONFLICT (node) DO UPDATE SET
  roles = excluded.roles, agents = excluded.agents, default_agent = excluded.default_agent,
  version = excluded.version, code = excluded.code, seen_at = excluded.seen_at, good_until = excluded.good_until,
  left_at = NULL,
  since = CASE WHEN left_at IS NULL AND excluded.seen_at - seen_at BETWEEN -1000 AND (good_until - seen_at) / 2
    THEN since ELSE excluded.since END

-- name: forget_unseen
DELETE FROM member WHERE node <> ?1 AND seen_at < max(?2, coalesce(
  (SELECT o.seen_at FROM member o ORDER BY o.seen_at DESC LIMIT 1 OFFSET ?3), 0))

-- name: leave
UPDATE member SET left_at = ?2, seen_at = ?2, good_until = ?2 + good_until - seen_at WHERE node = ?1 AND left_at IS NULL

-- name: offered
SELECT DISTINCT agents, default_agent, left_at IS NULL AND seen_at <= ?1 + 1000 AND good_until > ?1,
  left_at IS NOT NULL AND good_until <= ?1
FROM member WHERE seen_at > ?1 - ?2 AND agents <> '[]'

-- name: members
SELECT node, roles, agents, default_agent, version, code, since, seen_at, left_at,
  left_at IS NULL AND seen_at <= ?1 + 1000 AND good_until > ?1
FROM member ORDER BY seen_at DESC, node LIMIT ?2

-- The agents that others than this member have, a JSON array.
-- name: agents_elsewhere
SELECT json_group_array(DISTINCT a.value) FROM member m, json_each(m.agents) a
WHERE m.node <> ?1 AND m.seen_at <= ?2 + 1000 AND m.good_until > ?2
