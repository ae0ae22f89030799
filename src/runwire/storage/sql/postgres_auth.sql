-- Every statement of the PostgreSQL adapter of the auth tables. Parameters are numbered. What appends to `auth_event` is
-- a function of `postgres_auth_functions.sql`. A NULL for the time is the database's clock.

-- The log of changes --------------------------------------------------------------------------------

-- Its end in a row of its own, if there is nothing to read. What can be read is on the disk: `lsn` is past it.
-- name: events_after
SELECT c.generation, c.seq AS head, coalesce($3::bigint, runwire_now()) AS read_at,
  (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS lsn,
  e.seq, e.kind, e.at, e.user_id, e.session_id, e.key_id, e.kid, e.holder, e.reason
FROM auth_counter c LEFT JOIN LATERAL (
  SELECT a.seq, a.kind, a.at, a.user_id, a.session_id, a.key_id, a.kid, a.holder, a.reason
  FROM auth_event a WHERE a.seq > $1 AND a.seq <= c.seq ORDER BY a.seq LIMIT $2
) e ON true
WHERE c.key = 1
ORDER BY e.seq

-- The state of all, in one transaction that sees one instant; see `PostgresAuthStore.snapshot`.
-- name: be_patient
SELECT set_config('idle_in_transaction_session_timeout', $1, true)

-- name: head
SELECT generation, seq, coalesce($1::bigint, runwire_now()) AS read_at FROM auth_counter WHERE key = 1

-- name: all_users
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user WHERE id > $1 ORDER BY id LIMIT $2

-- name: revoked_sessions
SELECT id, revoked_at FROM auth_session WHERE revoked_at IS NOT NULL AND (revoked_at, id) > ($1, $2)
ORDER BY revoked_at, id LIMIT $3

-- name: revoked_keys
SELECT id, revoked_at FROM auth_key WHERE revoked_at IS NOT NULL AND (revoked_at, id) > ($1, $2)
ORDER BY revoked_at, id LIMIT $3

-- name: revoked_kids
SELECT kid FROM auth_signing_key WHERE revoked_at IS NOT NULL ORDER BY kid

-- Users ---------------------------------------------------------------------------------------------

-- name: create_user
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_create_user($1, $2, $3, $4, $5, $6, $7)

-- name: user_by_id
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user WHERE id = $1

-- name: user_by_name
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user WHERE name = $1

-- name: list_users
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user
WHERE name > $1 AND ($3::boolean OR status <> 'deleted') ORDER BY name LIMIT $2

-- name: password_hash
SELECT password_hash FROM auth_user WHERE id = $1

-- name: change_user
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_change_user($1, $2, $3, $4, $5, $6)

-- name: delete_user
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_delete_user($1, $2, $3, $4)

-- name: set_password
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_set_password($1, $2, $3, $4, $5, $6)

-- name: create_reset
SELECT runwire_auth_create_reset($1, $2, $3, $4, $5)

-- name: reset_password
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_reset_password($1, $2, $3, $4)

-- Sessions ------------------------------------------------------------------------------------------

-- name: create_session
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_create_session($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: session
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from,
  s.client, s.epoch AS session_epoch, s.refresh_key, s.counter, s.rotated_at, s.created_at AS since, s.expires_at,
  s.revoked_at, s.address, s.id AS session, coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_session s JOIN auth_user u ON u.id = s.user_id WHERE s.id = $1

-- name: list_sessions
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from,
  s.client, s.epoch AS session_epoch, s.refresh_key, s.counter, s.rotated_at, s.created_at AS since, s.expires_at,
  s.revoked_at, s.address, s.id AS session, coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_session s JOIN auth_user u ON u.id = s.user_id
WHERE s.user_id = $1 AND s.revoked_at IS NULL AND s.expires_at > coalesce($2::bigint, runwire_now())
  AND s.epoch = u.epoch AND u.status = 'active'
ORDER BY s.created_at DESC, s.id DESC

-- Compare and set: of any number of refreshes with one token, one moves the counter.
-- name: rotate_session
WITH clock AS (SELECT coalesce($3::bigint, runwire_now()) AS at)
UPDATE auth_session s SET counter = s.counter + 1, rotated_at = clock.at
FROM clock
WHERE s.id = $1 AND s.counter = $2 AND s.revoked_at IS NULL AND s.expires_at > clock.at
  AND EXISTS (SELECT 1 FROM auth_user u WHERE u.id = s.user_id AND u.status = 'active' AND u.epoch = s.epoch)
RETURNING s.id

-- name: revoke_session
SELECT runwire_auth_revoke_session($1, $2, $3, $4)

-- name: revoke_external_session
SELECT runwire_auth_revoke_external_session($1, $2, $3, $4, $5)

-- name: sign_out_everywhere
SELECT runwire_auth_sign_out($1, $2, $3, $4, $5, $6, $7)

-- name: sign_out_before
SELECT id FROM runwire_auth_sign_out_before($1, $2, $3, $4, $5, $6)

-- API keys ------------------------------------------------------------------------------------------

-- name: create_key
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_create_key($1, $2, $3, $4, $5, $6, $7, $8)

-- name: key
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from,
  k.id AS key, k.secret_hash, k.label, k.created_at AS since, k.expires_at, k.revoked_at,
  k.scopes, k.last_used_at,
  coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE k.id = $1

-- name: keys
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from,
  k.id AS key, k.secret_hash, k.label, k.created_at AS since, k.expires_at, k.revoked_at,
  k.scopes, k.last_used_at,
  coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE k.id = ANY ($1::text[])

-- name: list_keys
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from,
  k.id AS key, k.secret_hash, k.label, k.created_at AS since, k.expires_at, k.revoked_at,
  k.scopes, k.last_used_at,
  coalesce($2::bigint, runwire_now()) AS read_at
FROM auth_key k JOIN auth_user u ON u.id = k.user_id WHERE k.user_id = $1 ORDER BY k.id DESC

-- name: revoke_key
SELECT runwire_auth_revoke_key($1, $2, $3, $4)

-- In order, and nothing that somebody else is at: two that note the same keys never wait for each other.
-- name: touch_keys
WITH clock AS MATERIALIZED (SELECT coalesce($2::bigint, runwire_now()) AS at),
stale AS (
  SELECT k.id FROM auth_key k, clock
  WHERE k.id = ANY ($1::text[]) AND (k.last_used_at IS NULL OR k.last_used_at <= clock.at - 60000)
  ORDER BY k.id FOR UPDATE OF k SKIP LOCKED
)
UPDATE auth_key k SET last_used_at = clock.at FROM clock, stale WHERE k.id = stale.id

-- Signing keys --------------------------------------------------------------------------------------

-- name: create_signing_key
SELECT runwire_auth_create_signing_key($1, $2, $3)

-- name: add_signing_key
SELECT runwire_auth_add_signing_key($1, $2, $3, $4, $5, $6, $7)

-- name: revoke_signing_key
SELECT runwire_auth_revoke_signing_key($1, $2, $3)

-- name: signing_keys
SELECT kid, private_jwk, created_at, activates_at, retires_at, revoked_at FROM auth_signing_key
WHERE $2::boolean OR revoked_at IS NULL AND (retires_at IS NULL OR retires_at > coalesce($1::bigint, runwire_now()))
ORDER BY activates_at, kid

-- External issuers ----------------------------------------------------------------------------------

-- name: link_external
SELECT id, name, status, epoch, roles, created_at, valid_from, at, fault FROM runwire_auth_link_external($1, $2, $3, $4, $5, $6, $7, $8)

-- name: external_user
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_external e JOIN auth_user u ON u.id = e.user_id WHERE e.subject_hash = $1

-- name: external_of
SELECT issuer, subject FROM auth_external WHERE user_id = $1 AND subject IS NOT NULL

-- The audit -----------------------------------------------------------------------------------------

-- name: record
SELECT runwire_auth_record($1, $2)

-- Its end in a row of its own, if there is nothing to read.
-- name: audit_after
SELECT h.head, a.seq, a.at, a.actor, a.actor_kind, a.action, a.subject, a.address, a.detail
FROM (SELECT coalesce(max(m.seq), 0) AS head FROM auth_audit m) h LEFT JOIN LATERAL (
  SELECT b.seq, b.at, b.actor, b.actor_kind, b.action, b.subject, b.address, b.detail
  FROM auth_audit b WHERE b.seq > $1 ORDER BY b.seq LIMIT $2
) a ON true
ORDER BY a.seq

-- name: breaker_orders
SELECT h.head, a.seq, a.at, a.actor, a.actor_kind, a.action, a.subject, a.address, a.detail
FROM (SELECT coalesce(max(m.seq), 0) AS head FROM auth_audit m) h LEFT JOIN LATERAL (
  SELECT b.seq, b.at, b.actor, b.actor_kind, b.action, b.subject, b.address, b.detail
  FROM auth_audit b
  WHERE b.seq > $1 AND b.action IN ('breaker.reset', 'breaker.force-open', 'breaker.disable')
  ORDER BY b.seq LIMIT $2
) a ON true
ORDER BY a.seq

-- name: erase_in_audit
SELECT runwire_auth_erase_in_audit($1)

-- One-time secrets ----------------------------------------------------------------------------------

-- name: create_invite
SELECT runwire_auth_create_invite($1, $2, $3, $4, $5, $6, $7)

-- name: list_invites
SELECT id, roles, created_by, created_at, ends_at FROM auth_invite WHERE ends_at > coalesce($1::bigint, runwire_now())
ORDER BY created_at DESC, id DESC LIMIT 1000

-- name: revoke_invite
SELECT runwire_auth_revoke_invite($1, $2, $3)

-- name: create_link
SELECT runwire_auth_create_link($1, $2, $3, $4, $5)

-- name: consume_link
DELETE FROM auth_link WHERE secret_hash = $1
RETURNING user_id, expires_at > coalesce($2::bigint, runwire_now()) AS is_in_time

-- What is over its time goes with the next one that is made, unless somebody is at it.
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
