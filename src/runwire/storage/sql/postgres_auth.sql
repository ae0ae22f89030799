-- Every statement of the PostgreSQL adapter of the auth tables. Parameters are numbered. What appends to `auth_event` is
-- a function of `postgres_auth_functions.sql`. A NULL for the time is the database's clock.

-- The log of changes --------------------------------------------------------------------------------

-- Its end in a row of its own, if there is nothing to read.
-- name: events_after
SELECT c.generation, c.seq AS head, coalesce($3::bigint, runwire_now()) AS read_at,
  e.seq, e.kind, e.at, e.user_id, e.session_id, e.key_id, e.kid, e.holder, e.reason
FROM auth_counter c LEFT JOIN LATERAL (
  SELECT a.seq, a.kind, a.at, a.user_id, a.session_id, a.key_id, a.kid, a.holder, a.reason
  FROM auth_event a WHERE a.seq > $1 AND a.seq <= c.seq ORDER BY a.seq LIMIT $2
) e ON true
WHERE c.key = 1
ORDER BY e.seq

-- One statement, so one instant. What a row is says its first column.
-- name: snapshot
WITH clock AS MATERIALIZED (SELECT coalesce($2::bigint, runwire_now()) AS at)
SELECT 'head' AS what, c.generation AS id, NULL::text AS name, NULL::text AS status, c.seq AS epoch, NULL::text AS roles,
  clock.at AS created_at
FROM auth_counter c, clock WHERE c.key = 1
UNION ALL
SELECT 'user', u.id, u.name, u.status, u.epoch, u.roles, u.created_at FROM auth_user u
UNION ALL
SELECT 'session', s.id, NULL, NULL, NULL, NULL, s.revoked_at FROM auth_session s
WHERE s.revoked_at IS NOT NULL AND s.revoked_at >= (SELECT at FROM clock) - $1::bigint
UNION ALL
SELECT 'key', k.id, NULL, NULL, NULL, NULL, k.revoked_at FROM auth_key k
WHERE k.revoked_at IS NOT NULL AND k.revoked_at >= (SELECT at FROM clock) - $1::bigint
ORDER BY what, created_at, id

-- Users ---------------------------------------------------------------------------------------------

-- name: create_user
SELECT id, name, status, epoch, roles, created_at, at FROM runwire_auth_create_user($1, $2, $3, $4, $5)

-- name: user_by_id
SELECT id, name, status, epoch, roles, created_at FROM auth_user WHERE id = $1

-- name: user_by_name
SELECT id, name, status, epoch, roles, created_at FROM auth_user WHERE name = $1

-- name: list_users
SELECT id, name, status, epoch, roles, created_at FROM auth_user WHERE name > $1 ORDER BY name LIMIT $2

-- name: password_hash
SELECT password_hash FROM auth_user WHERE id = $1

-- name: change_user
SELECT id, name, status, epoch, roles, created_at, at FROM runwire_auth_change_user($1, $2, $3, $4)

-- name: set_password
SELECT id, name, status, epoch, roles, created_at, at FROM runwire_auth_set_password($1, $2, $3, $4, $5)

-- Sessions ------------------------------------------------------------------------------------------

-- name: create_session
SELECT id, name, status, epoch, roles, created_at, at FROM runwire_auth_create_session($1, $2, $3, $4, $5, $6, $7)

-- name: session
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at,
  s.client, s.epoch AS session_epoch, s.refresh_key, s.counter, s.rotated_at, s.created_at AS since, s.expires_at,
  s.revoked_at, coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_session s JOIN auth_user u ON u.id = s.user_id WHERE s.id = $1

-- Compare and set: of any number of refreshes with one token, one moves the counter.
-- name: rotate_session
WITH clock AS (SELECT coalesce($3::bigint, runwire_now()) AS at)
UPDATE auth_session s SET counter = s.counter + 1, rotated_at = clock.at
FROM clock
WHERE s.id = $1 AND s.counter = $2 AND s.revoked_at IS NULL AND s.expires_at > clock.at
  AND EXISTS (SELECT 1 FROM auth_user u WHERE u.id = s.user_id AND u.status = 'active' AND u.epoch = s.epoch)
RETURNING s.id

-- name: revoke_session
SELECT runwire_auth_revoke_session($1, $2, $3)

-- API keys ------------------------------------------------------------------------------------------

-- name: create_key
SELECT id, name, status, epoch, roles, created_at, at FROM runwire_auth_create_key($1, $2, $3, $4, $5, $6)

-- name: key
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at,
  k.id AS key, k.secret_hash, k.label, k.created_at AS since, k.expires_at, k.revoked_at,
  coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE k.id = $1

-- name: keys
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at,
  k.id AS key, k.secret_hash, k.label, k.created_at AS since, k.expires_at, k.revoked_at,
  coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE k.id = ANY ($1::text[])

-- name: list_keys
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at,
  k.id AS key, k.secret_hash, k.label, k.created_at AS since, k.expires_at, k.revoked_at,
  coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE k.user_id = $1 ORDER BY k.id DESC

-- name: revoke_key
SELECT runwire_auth_revoke_key($1, $2, $3)

-- Signing keys --------------------------------------------------------------------------------------

-- name: create_signing_key
SELECT kid, private_jwk, created_at FROM runwire_auth_create_signing_key($1, $2, $3)

-- name: signing_keys
SELECT kid, private_jwk, created_at FROM auth_signing_key ORDER BY created_at, kid

-- One-time secrets ----------------------------------------------------------------------------------

-- What is over its time goes with the next one that is made, unless somebody is at it.
-- name: create_link
WITH clock AS (SELECT coalesce($4::bigint, runwire_now()) AS at),
dropped AS (
  DELETE FROM auth_link WHERE secret_hash IN (
    SELECT l.secret_hash FROM auth_link l, clock WHERE l.expires_at <= clock.at
    ORDER BY l.expires_at LIMIT 1000 FOR UPDATE OF l SKIP LOCKED)
)
INSERT INTO auth_link (secret_hash, user_id, expires_at)
SELECT $2, u.id, clock.at + $3::bigint FROM auth_user u, clock WHERE u.id = $1
RETURNING user_id

-- name: consume_link
DELETE FROM auth_link WHERE secret_hash = $1
RETURNING user_id, expires_at > coalesce($2::bigint, runwire_now()) AS is_in_time

-- name: create_ticket
WITH clock AS (SELECT coalesce($4::bigint, runwire_now()) AS at),
dropped AS (
  DELETE FROM auth_ticket WHERE secret_hash IN (
    SELECT t.secret_hash FROM auth_ticket t, clock WHERE t.expires_at <= clock.at
    ORDER BY t.expires_at LIMIT 1000 FOR UPDATE OF t SKIP LOCKED)
)
INSERT INTO auth_ticket (secret_hash, ticket, expires_at)
SELECT $2, $1, clock.at + $3::bigint FROM clock

-- name: consume_ticket
DELETE FROM auth_ticket WHERE secret_hash = $1
RETURNING ticket, expires_at > coalesce($2::bigint, runwire_now()) AS is_in_time
