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
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user ORDER BY id

-- name: revoked_sessions
SELECT id, revoked_at FROM auth_session WHERE revoked_at >= ?1 ORDER BY revoked_at, id

-- name: revoked_keys
SELECT id, revoked_at FROM auth_key WHERE revoked_at >= ?1 ORDER BY revoked_at, id

-- Users ---------------------------------------------------------------------------------------------

-- name: add_user
INSERT INTO auth_user (id, name, status, epoch, roles, password_hash, created_at)
VALUES (?1, ?2, 'active', 1, ?3, ?4, ?5) ON CONFLICT (name) DO NOTHING
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- name: user_by_id
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user WHERE id = ?1

-- name: user_by_name
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user WHERE name = ?1

-- name: list_users
SELECT id, name, status, epoch, roles, created_at, valid_from FROM auth_user
WHERE name > ?1 AND (?3 OR status <> 'deleted') ORDER BY name LIMIT ?2

-- name: disable_user
UPDATE auth_user SET status = 'disabled', epoch = epoch + 1, valid_from = ?2 WHERE id = ?1 AND status = 'active'
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- name: revoke_keys_of_user
UPDATE auth_key SET revoked_at = ?2, reason = ?3 WHERE user_id = ?1 AND revoked_at IS NULL

-- name: revoke_sessions_of_user
UPDATE auth_session SET revoked_at = ?2, reason = ?3 WHERE user_id = ?1 AND revoked_at IS NULL

-- name: drop_links_of_user
DELETE FROM auth_link WHERE user_id = ?1

-- name: drop_resets_of_user
DELETE FROM auth_reset WHERE user_id = ?1

-- Whether somebody else administers.
-- name: other_admin
SELECT 1 FROM auth_user AS u, json_each(u.roles) AS r
WHERE u.id <> ?1 AND u.status = 'active' AND r.value = 'admin' LIMIT 1

-- name: bury_user
UPDATE auth_user SET status = 'deleted', epoch = epoch + 1, valid_from = ?2, roles = '[]', password_hash = NULL,
  name = CASE WHEN EXISTS (SELECT 1 FROM auth_user AS o WHERE o.name = auth_user.id AND o.id <> auth_user.id)
    THEN id || '.deleted' ELSE id END
WHERE id = ?1 AND status <> 'deleted'
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- What the log said of them it does not say any more. Nobody is misled who reads it now: they are gone.
-- name: forget_in_events
UPDATE auth_event SET holder = ?2 WHERE user_id = ?1 AND holder IS NOT NULL

-- name: forget_in_sessions
UPDATE auth_session SET address = '', refresh_key = x'' WHERE user_id = ?1

-- name: forget_in_keys
UPDATE auth_key SET label = '' WHERE user_id = ?1

-- name: forget_subject
UPDATE auth_external SET subject = NULL WHERE user_id = ?1

-- name: move_epoch
UPDATE auth_user SET epoch = epoch + 1, valid_from = ?2 WHERE id = ?1
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- name: enable_user
UPDATE auth_user SET status = 'active' WHERE id = ?1 AND status = 'disabled'
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- name: set_roles
UPDATE auth_user SET roles = ?2 WHERE id = ?1 AND roles <> ?2
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- name: password_hash
SELECT password_hash FROM auth_user WHERE id = ?1

-- Whether somebody may change their own password: it is still the one that was checked, and so is the session (?3, if any).
-- name: may_change
SELECT 1 FROM auth_user AS u WHERE u.id = ?1 AND u.password_hash = ?2 AND (?3 IS NULL OR EXISTS (
  SELECT 1 FROM auth_session AS s WHERE s.id = ?3 AND s.user_id = u.id AND s.revoked_at IS NULL AND s.expires_at > ?4
    AND s.epoch = u.epoch AND u.status = 'active'))

-- name: set_password
UPDATE auth_user SET password_hash = ?2 WHERE id = ?1
RETURNING id, name, status, epoch, roles, created_at, valid_from

-- Sessions ------------------------------------------------------------------------------------------

-- name: add_session
INSERT INTO auth_session
    (id, user_id, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at, address)
SELECT ?1, id, ?4, epoch, ?5, 1, ?6, ?6, ?7, ?8 FROM auth_user WHERE id = ?2 AND epoch = ?3 AND status = 'active'
  AND NOT EXISTS (SELECT 1 FROM auth_key AS k WHERE k.id = ?4 AND (k.revoked_at IS NOT NULL OR k.expires_at <= ?6))
RETURNING id

-- name: session
SELECT s.id, s.client, s.epoch, s.refresh_key, s.counter, s.rotated_at, s.created_at, s.expires_at, s.revoked_at, s.address,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_session AS s JOIN auth_user AS u ON u.id = s.user_id WHERE s.id = ?1

-- name: list_sessions
SELECT s.id, s.client, s.epoch, s.refresh_key, s.counter, s.rotated_at, s.created_at, s.expires_at, s.revoked_at, s.address,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_session AS s JOIN auth_user AS u ON u.id = s.user_id
WHERE s.user_id = ?1 AND s.revoked_at IS NULL AND s.expires_at > ?2 AND s.epoch = u.epoch AND u.status = 'active'
ORDER BY s.created_at DESC, s.id DESC

-- Compare and set: of any number of refreshes with one token, one moves the counter.
-- name: rotate_session
UPDATE auth_session SET counter = counter + 1, rotated_at = ?3
WHERE id = ?1 AND counter = ?2 AND revoked_at IS NULL AND expires_at > ?3
  AND EXISTS (SELECT 1 FROM auth_user AS u
              WHERE u.id = auth_session.user_id AND u.status = 'active' AND u.epoch = auth_session.epoch)
RETURNING id

-- name: revoke_session
UPDATE auth_session SET revoked_at = ?2, reason = ?3 WHERE id = ?1 AND revoked_at IS NULL RETURNING user_id

-- ?2: the one that goes on, or ''. ?5: only those made before, or NULL.
-- name: revoke_other_sessions
UPDATE auth_session SET revoked_at = ?3, reason = ?4
WHERE user_id = ?1 AND id <> ?2 AND revoked_at IS NULL AND (?5 IS NULL OR created_at < ?5) RETURNING id

-- name: revoke_older_keys
UPDATE auth_key SET revoked_at = ?2, reason = ?3
WHERE user_id = ?1 AND revoked_at IS NULL AND (?4 IS NULL OR created_at < ?4) RETURNING id

-- name: carry_sessions_over
UPDATE auth_session SET epoch = ?2 WHERE user_id = ?1 AND revoked_at IS NULL AND epoch = ?2 - 1

-- name: sessions_before
SELECT id, user_id FROM auth_session WHERE id > ?1 AND revoked_at IS NULL AND created_at < ?2 ORDER BY id LIMIT ?3

-- name: add_external_session
INSERT INTO auth_session
    (id, user_id, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at, revoked_at, reason)
SELECT ?1, id, 'external', epoch, x'', 1, ?3, ?3, ?3, ?3, ?4 FROM auth_user WHERE id = ?2
ON CONFLICT (id) DO NOTHING RETURNING id

-- API keys ------------------------------------------------------------------------------------------

-- name: add_key
INSERT INTO auth_key (id, user_id, secret_hash, label, created_at, expires_at, scopes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)

-- name: key
SELECT k.id, k.secret_hash, k.label, k.created_at, k.expires_at, k.revoked_at, k.scopes, k.last_used_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_key AS k JOIN auth_user AS u ON u.id = k.user_id WHERE k.id = ?1

-- name: keys
SELECT k.id, k.secret_hash, k.label, k.created_at, k.expires_at, k.revoked_at, k.scopes, k.last_used_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_key AS k JOIN auth_user AS u ON u.id = k.user_id WHERE k.id IN (SELECT value FROM json_each(?1))

-- name: list_keys
SELECT k.id, k.secret_hash, k.label, k.created_at, k.expires_at, k.revoked_at, k.scopes, k.last_used_at,
       u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_key AS k JOIN auth_user AS u ON u.id = k.user_id WHERE u.id = ?1 ORDER BY k.id DESC

-- name: touch_keys
UPDATE auth_key SET last_used_at = ?2
WHERE id IN (SELECT value FROM json_each(?1)) AND (last_used_at IS NULL OR last_used_at <= ?2 - 60000)

-- name: revoke_key
UPDATE auth_key SET revoked_at = ?2, reason = ?3 WHERE id = ?1 AND revoked_at IS NULL RETURNING user_id

-- name: revoke_sessions_of_key
UPDATE auth_session SET revoked_at = ?3, reason = 'key_revoked'
WHERE user_id = ?1 AND client = ?2 AND revoked_at IS NULL RETURNING id

-- Signing keys --------------------------------------------------------------------------------------

-- name: add_signing_key_if_none
INSERT INTO auth_signing_key (kid, private_jwk, created_at, activates_at)
SELECT ?1, ?2, ?3, ?3 WHERE NOT EXISTS (
  SELECT 1 FROM auth_signing_key
  WHERE revoked_at IS NULL AND activates_at <= ?3 AND (retires_at IS NULL OR retires_at > ?3))
RETURNING kid

-- name: add_signing_key
INSERT INTO auth_signing_key (kid, private_jwk, created_at, activates_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (kid) DO NOTHING RETURNING kid

-- name: retire_signing_keys
UPDATE auth_signing_key SET retires_at = min(coalesce(retires_at, ?2), ?2)
WHERE kid <> ?1 AND revoked_at IS NULL

-- name: signing_keys
SELECT kid, private_jwk, created_at, activates_at, retires_at, revoked_at FROM auth_signing_key
WHERE ?2 OR revoked_at IS NULL AND (retires_at IS NULL OR retires_at > ?1)
ORDER BY activates_at, kid

-- name: revoke_signing_key
UPDATE auth_signing_key SET revoked_at = ?2, private_jwk = x'' WHERE kid = ?1 AND revoked_at IS NULL RETURNING kid

-- name: revoked_kids
SELECT kid FROM auth_signing_key WHERE revoked_at IS NOT NULL ORDER BY kid

-- External issuers ----------------------------------------------------------------------------------

-- name: external_user
SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from
FROM auth_external AS e JOIN auth_user AS u ON u.id = e.user_id WHERE e.subject_hash = ?1

-- name: external_of
SELECT issuer, subject FROM auth_external WHERE user_id = ?1 AND subject IS NOT NULL

-- name: add_external
INSERT INTO auth_external (subject_hash, issuer, subject, user_id) VALUES (?1, ?2, ?3, ?4)

-- The audit -----------------------------------------------------------------------------------------

-- name: add_audit
INSERT INTO auth_audit (seq, at, actor, actor_kind, action, subject, address, detail)
SELECT coalesce(max(seq), 0) + 1, ?1, ?2, ?3, ?4, ?5, ?6, ?7 FROM auth_audit

-- name: audit_head
SELECT coalesce(max(seq), 0) FROM auth_audit

-- name: audit_after
SELECT seq, at, actor, actor_kind, action, subject, address, detail FROM auth_audit WHERE seq > ?1 ORDER BY seq LIMIT ?2

-- name: breaker_orders
SELECT seq, at, actor, actor_kind, action, subject, address, detail FROM auth_audit
WHERE seq > ?1 AND action IN ('breaker.reset', 'breaker.force-open', 'breaker.disable') ORDER BY seq LIMIT ?2

-- ?1: the words that meant somebody, JSON.
-- name: erase_in_audit
UPDATE auth_audit SET
  actor = CASE WHEN actor IN (SELECT value FROM json_each(?1)) THEN 'erased' ELSE actor END,
  subject = CASE WHEN subject IN (SELECT value FROM json_each(?1)) THEN 'erased' ELSE subject END,
  address = CASE WHEN address = '' THEN '' ELSE 'erased' END,
  detail = (SELECT json_group_object(d.key, 'erased') FROM json_each(auth_audit.detail) AS d)
WHERE actor IN (SELECT value FROM json_each(?1)) OR subject IN (SELECT value FROM json_each(?1))

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

-- name: drop_old_invites
DELETE FROM auth_invite WHERE ends_at <= ?1

-- name: add_invite
INSERT INTO auth_invite (secret_hash, id, roles, created_by, created_at, ends_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)

-- name: consume_invite
DELETE FROM auth_invite WHERE secret_hash = ?1 AND ends_at > ?2 RETURNING roles

-- name: list_invites
SELECT id, roles, created_by, created_at, ends_at FROM auth_invite WHERE ends_at > ?1
ORDER BY created_at DESC, id DESC LIMIT 1000

-- name: revoke_invite
DELETE FROM auth_invite WHERE id = ?1 RETURNING id

-- name: drop_old_resets
DELETE FROM auth_reset WHERE expires_at <= ?1

-- name: add_reset
INSERT INTO auth_reset (secret_hash, user_id, expires_at) VALUES (?1, ?2, ?3)

-- name: consume_reset
DELETE FROM auth_reset WHERE secret_hash = ?1 RETURNING user_id, expires_at
