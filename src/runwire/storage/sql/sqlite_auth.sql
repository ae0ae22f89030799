-- Every statement of the SQLite adapter of the auth tables. Parameters are numbered or named.

-- The log of changes --------------------------------------------------------------------------------

-- The only birthplace of an auth_event number; the row is locked until the change commits.
-- name: next_seq
UPDATE auth_counter SET seq = seq + 1 WHERE key = 1 RETURNING seq

-- name: add_event
INSERT INTO auth_event (seq, kind, at, user_id, session_id, key_id, kid, holder, reason)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)

-- name: head
SELECT generation, seq FROM auth_counter WHERE key = 1

-- name: events_after
SELECT seq, kind, at, user_id, session_id, key_id, kid, holder, reason
FROM auth_event WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3

-- name: all_users
SELECT id, name, status, epoch, roles, created_at FROM auth_user ORDER BY id

-- name: revoked_sessions
SELECT id, revoked_at FROM auth_session WHERE revoked_at >= ?1 ORDER BY revoked_at, id

-- name: revoked_keys
SELECT id, revoked_at FROM auth_key WHERE revoked_at >= ?1 ORDER BY revoked_at, id

-- Users ---------------------------------------------------------------------------------------------

-- name: add_user
INSERT INTO auth_user (id, name, status, epoch, roles, password_hash, created_at)
VALUES (?1, ?2, 'active', 1, ?3, ?4, ?5) ON CONFLICT (name) DO NOTHING
RETURNING id, name, status, epoch, roles, created_at

-- name: user_by_id
SELECT id, name, status, epoch, roles, created_at FROM auth_user WHERE id = ?1

-- name: user_by_name
SELECT id, name, status, epoch, roles, created_at FROM auth_user WHERE name = ?1

-- name: list_users
SELECT id, name, status, epoch, roles, created_at FROM auth_user WHERE name > ?1 ORDER BY name LIMIT ?2

-- name: disable_user
UPDATE auth_user SET status = 'disabled', epoch = epoch + 1 WHERE id = ?1 AND status = 'active'
RETURNING id, name, status, epoch, roles, created_at

-- name: revoke_keys_of_user
UPDATE auth_key SET revoked_at = ?2, reason = ?3 WHERE user_id = ?1 AND revoked_at IS NULL

-- name: enable_user
UPDATE auth_user SET status = 'active' WHERE id = ?1 AND status = 'disabled'
RETURNING id, name, status, epoch, roles, created_at

-- name: set_roles
UPDATE auth_user SET roles = ?2 WHERE id = ?1 AND roles <> ?2
RETURNING id, name, status, epoch, roles, created_at

-- name: password_hash
SELECT password_hash FROM auth_user WHERE id = ?1

-- name: set_password
UPDATE auth_user SET password_hash = ?2 WHERE id = ?1
RETURNING id, name, status, epoch, roles, created_at

-- Sessions ------------------------------------------------------------------------------------------

-- name: add_session
INSERT INTO auth_session
    (id, user_id, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at)
SELECT ?1, id, ?4, epoch, ?5, 1, ?6, ?6, ?7 FROM auth_user WHERE id = ?2 AND epoch = ?3 AND status = 'active'
RETURNING id

-- name: session
SELECT s.id, s.client, s.epoch, s.refresh_key, s.counter, s.rotated_at, s.created_at, s.expires_at, s.revoked_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at
FROM auth_session AS s JOIN auth_user AS u ON u.id = s.user_id WHERE s.id = ?1

-- Compare and set: of any number of refreshes with one token, one moves the counter.
-- name: rotate_session
UPDATE auth_session SET counter = counter + 1, rotated_at = ?3
WHERE id = ?1 AND counter = ?2 AND revoked_at IS NULL AND expires_at > ?3
  AND EXISTS (SELECT 1 FROM auth_user AS u
              WHERE u.id = auth_session.user_id AND u.status = 'active' AND u.epoch = auth_session.epoch)
RETURNING id

-- name: revoke_session
UPDATE auth_session SET revoked_at = ?2, reason = ?3 WHERE id = ?1 AND revoked_at IS NULL RETURNING user_id

-- name: revoke_other_sessions
UPDATE auth_session SET revoked_at = ?3, reason = ?4
WHERE user_id = ?1 AND id <> ?2 AND revoked_at IS NULL RETURNING id

-- API keys ------------------------------------------------------------------------------------------

-- name: add_key
INSERT INTO auth_key (id, user_id, secret_hash, label, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)

-- name: key
SELECT k.id, k.secret_hash, k.label, k.created_at, k.expires_at, k.revoked_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at
FROM auth_key AS k JOIN auth_user AS u ON u.id = k.user_id WHERE k.id = ?1

-- name: keys
SELECT k.id, k.secret_hash, k.label, k.created_at, k.expires_at, k.revoked_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at
FROM auth_key AS k JOIN auth_user AS u ON u.id = k.user_id WHERE k.id IN (SELECT value FROM json_each(?1))

-- name: list_keys
SELECT k.id, k.secret_hash, k.label, k.created_at, k.expires_at, k.revoked_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at
FROM auth_key AS k JOIN auth_user AS u ON u.id = k.user_id WHERE u.id = ?1 ORDER BY k.id DESC

-- name: revoke_key
UPDATE auth_key SET revoked_at = ?2, reason = ?3 WHERE id = ?1 AND revoked_at IS NULL RETURNING user_id

-- Signing keys --------------------------------------------------------------------------------------

-- name: add_signing_key_if_none
INSERT INTO auth_signing_key (kid, private_jwk, created_at)
SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM auth_signing_key) RETURNING kid

-- name: signing_keys
SELECT kid, private_jwk, created_at FROM auth_signing_key ORDER BY created_at, kid

-- One-time secrets ----------------------------------------------------------------------------------

-- name: drop_old_links
DELETE FROM auth_link WHERE expires_at <= ?1

-- name: add_link
INSERT INTO auth_link (secret_hash, user_id, expires_at) VALUES (?1, ?2, ?3)

-- name: consume_link
DELETE FROM auth_link WHERE secret_hash = ?1 RETURNING user_id, expires_at

-- name: drop_old_tickets
DELETE FROM auth_ticket WHERE expires_at <= ?1

-- name: add_ticket
INSERT INTO auth_ticket (secret_hash, ticket, expires_at) VALUES (?1, ?2, ?3)

-- name: consume_ticket
DELETE FROM auth_ticket WHERE secret_hash = ?1 RETURNING ticket, expires_at
