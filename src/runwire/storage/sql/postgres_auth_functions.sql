-- The functions with which the PostgreSQL adapter changes the auth tables: one call, one statement, one commit. Each first
-- locks the counter row, so changes come one after the other and the order of their numbers is that of their commits;
-- what it then reads, it reads in a new statement, which sees what was committed while it waited. A NULL for the time
-- is the database's clock, one for the audit means that nothing is written there. A change of a user returns the user,
-- or why there was none; no row: there is no such user.

-- Those of an earlier release. In a new database there are none.
-- name: drop_auth_functions
DO $$
DECLARE
  v_function regprocedure;
BEGIN
  FOR v_function IN
    SELECT p.oid FROM pg_proc p
    WHERE starts_with(p.proname, 'runwire_auth_') AND p.pronamespace = current_schema()::regnamespace
  LOOP
    EXECUTE format('DROP FUNCTION %s', v_function);
  END LOOP;
END
$$

-- The only birthplace of an auth_event number. The caller holds the counter's lock.
-- name: runwire_auth_event
CREATE FUNCTION runwire_auth_event(
  p_kind text, p_at bigint, p_user text, p_session text, p_key text, p_kid text, p_reason text, p_has_holder boolean
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_seq bigint;
BEGIN
  UPDATE auth_counter SET seq = seq + 1 WHERE key = 1 RETURNING seq INTO STRICT v_seq;
  INSERT INTO auth_event (seq, kind, at, user_id, session_id, key_id, kid, holder, reason)
  VALUES (v_seq, p_kind, p_at, p_user, p_session, p_key, p_kid,
    CASE WHEN p_has_holder THEN runwire_auth_holder(p_user) END, p_reason);
END
$$

-- name: runwire_auth_holder
CREATE FUNCTION runwire_auth_holder(p_user text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
    SELECT json_build_object('user', u.id, 'name', u.name, 'status', u.status, 'epoch', u.epoch,
      'roles', u.roles::json, 'created_at', u.created_at, 'valid_from', u.valid_from)::text
    FROM auth_user u WHERE u.id = p_user);
END
$$

-- Waits for its turn among all changes, and returns the time.
-- name: runwire_auth_begin
CREATE FUNCTION runwire_auth_begin(p_at bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM 1 FROM auth_counter WHERE key = 1 FOR NO KEY UPDATE;
  RETURN coalesce(p_at, runwire_now());
END
$$

-- The only birthplace of a number of the audit. The caller holds the counter's lock.
-- name: runwire_auth_note
CREATE FUNCTION runwire_auth_note(p_audit text, p_at bigint, p_subject text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_entry json := p_audit;
BEGIN
  IF v_entry IS NOT NULL THEN
    INSERT INTO auth_audit (seq, at, actor, actor_kind, action, subject, address, detail)
    SELECT coalesce(max(a.seq), 0) + 1, p_at, v_entry ->> 'actor', v_entry ->> 'actor_kind', v_entry ->> 'action',
      coalesce(v_entry ->> 'subject', p_subject), v_entry ->> 'address', (v_entry -> 'detail')::text
    FROM auth_audit a;
  END IF;
END
$$

-- name: runwire_auth_record
CREATE FUNCTION runwire_auth_record(p_audit text, p_at bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  PERFORM runwire_auth_note(p_audit, v_at, NULL);
END
$$

-- name: runwire_auth_user
CREATE FUNCTION runwire_auth_user(p_user text, p_at bigint, p_fault text) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, u.valid_from, p_at, p_fault
  FROM auth_user u WHERE u.id = p_user;
END
$$

-- Whether a user is the last one who administers.
-- name: runwire_auth_is_last_admin
CREATE FUNCTION runwire_auth_is_last_admin(p_user text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN EXISTS (SELECT 1 FROM auth_user u WHERE u.id = p_user AND u.status = 'active' AND u.roles::jsonb ? 'admin')
    AND NOT EXISTS (SELECT 1 FROM auth_user u WHERE u.id <> p_user AND u.status = 'active' AND u.roles::jsonb ? 'admin');
END
$$

-- Without a row: the invitation is not good. Without an id, but a fault: the name is taken.
-- name: runwire_auth_create_user
CREATE FUNCTION runwire_auth_create_user(
  p_user text, p_name text, p_roles text, p_password_hash text, p_invite bytea, p_audit text, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_roles text := p_roles;
BEGIN
  IF p_invite IS NOT NULL THEN
    SELECT i.roles INTO v_roles FROM auth_invite i WHERE i.secret_hash = p_invite AND i.ends_at > v_at;
    IF NOT FOUND THEN
      RETURN;
    END IF;
  END IF;
  INSERT INTO auth_user (id, name, status, epoch, roles, password_hash, created_at)
  VALUES (p_user, p_name, 'active', 1, v_roles, p_password_hash, v_at) ON CONFLICT (name) DO NOTHING;
  IF NOT FOUND THEN
    RETURN QUERY SELECT NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::text, NULL::bigint, NULL::bigint, v_at, 'name';
    RETURN;
  END IF;
  DELETE FROM auth_invite WHERE secret_hash = p_invite;
  PERFORM runwire_auth_event('user_created', v_at, p_user, NULL, NULL, NULL, NULL, true);
  PERFORM runwire_auth_note(p_audit, v_at, p_user);
  RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL);
END
$$

-- Ends all that a user could go on with. One event of the caller stands for it.
-- name: runwire_auth_end_all
CREATE FUNCTION runwire_auth_end_all(p_user text, p_reason text, p_at bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  UPDATE auth_key SET revoked_at = p_at, reason = p_reason WHERE user_id = p_user AND revoked_at IS NULL;
  UPDATE auth_session SET revoked_at = p_at, reason = p_reason WHERE user_id = p_user AND revoked_at IS NULL;
  DELETE FROM auth_link WHERE user_id = p_user;
  DELETE FROM auth_reset WHERE user_id = p_user;
END
$$

-- Disables, enables or gives other roles, if that changes anything.
-- name: runwire_auth_change_user
CREATE FUNCTION runwire_auth_change_user(
  p_kind text, p_user text, p_roles text, p_keep_admin boolean, p_audit text, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_status text;
  v_roles text;
BEGIN
  SELECT u.status, u.roles INTO v_status, v_roles FROM auth_user u WHERE u.id = p_user AND u.status <> 'deleted';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF (p_kind = 'user_disabled' AND v_status = 'disabled') OR (p_kind = 'user_enabled' AND v_status = 'active')
    OR (p_kind = 'roles_changed' AND v_roles = p_roles) THEN
    RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL);
    RETURN;
  END IF;
  IF p_keep_admin AND (p_kind = 'user_disabled' OR (p_kind = 'roles_changed' AND NOT p_roles::jsonb ? 'admin'))
    AND runwire_auth_is_last_admin(p_user) THEN
    RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, 'last_admin');
    RETURN;
  END IF;
  IF p_kind = 'user_disabled' THEN
    UPDATE auth_user SET status = 'disabled', epoch = epoch + 1, valid_from = v_at WHERE id = p_user;
    PERFORM runwire_auth_end_all(p_user, p_kind, v_at);
  ELSIF p_kind = 'user_enabled' THEN
    UPDATE auth_user SET status = 'active' WHERE id = p_user;
  ELSE
    UPDATE auth_user SET roles = p_roles WHERE id = p_user;
  END IF;
  PERFORM runwire_auth_event(p_kind, v_at, p_user, NULL, NULL, NULL, NULL, true);
  PERFORM runwire_auth_note(p_audit, v_at, p_user);
  RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL);
END
$$

-- Leaves a tombstone, and takes what was personal out of all rows.
-- name: runwire_auth_delete_user
CREATE FUNCTION runwire_auth_delete_user(p_user text, p_keep_admin boolean, p_audit text, p_at bigint) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  IF p_keep_admin AND runwire_auth_is_last_admin(p_user) THEN
    RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, 'last_admin');
    RETURN;
  END IF;
  UPDATE auth_user u SET status = 'deleted', epoch = u.epoch + 1, valid_from = v_at, roles = '[]', password_hash = NULL,
    name = CASE WHEN EXISTS (SELECT 1 FROM auth_user o WHERE o.name = u.id AND o.id <> u.id)
      THEN u.id || '.deleted' ELSE u.id END
  WHERE u.id = p_user AND u.status <> 'deleted';
  IF FOUND THEN
    PERFORM runwire_auth_end_all(p_user, 'user_deleted', v_at);
    PERFORM runwire_auth_event('user_deleted', v_at, p_user, NULL, NULL, NULL, NULL, true);
    -- Nobody is misled who reads the log now: they are gone.
    UPDATE auth_event SET holder = runwire_auth_holder(p_user) WHERE user_id = p_user AND holder IS NOT NULL;
    UPDATE auth_session SET address = '', refresh_key = '' WHERE user_id = p_user;
    UPDATE auth_key SET label = '' WHERE user_id = p_user;
    UPDATE auth_external SET subject = NULL WHERE user_id = p_user;
    PERFORM runwire_auth_note(p_audit, v_at, p_user);
  END IF;
  RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL);
END
$$

-- Ends sessions of a user, but one and those made later, each with its event. The caller holds the counter's lock.
-- name: runwire_auth_end_sessions
CREATE FUNCTION runwire_auth_end_sessions(p_user text, p_keep text, p_before bigint, p_reason text, p_at bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_session text;
  v_ended bigint := 0;
BEGIN
  FOR v_session IN
    UPDATE auth_session SET revoked_at = p_at, reason = p_reason
    WHERE user_id = p_user AND id <> coalesce(p_keep, '') AND revoked_at IS NULL
      AND (p_before IS NULL OR created_at < p_before) RETURNING id
  LOOP
    PERFORM runwire_auth_event('session_revoked', p_at, p_user, v_session, NULL, NULL, p_reason, false);
    v_ended := v_ended + 1;
  END LOOP;
  RETURN v_ended;
END
$$

-- With an expected one nothing is changed unless the password is still that, and the session that stays (if any) is live.
-- name: runwire_auth_set_password
CREATE FUNCTION runwire_auth_set_password(
  p_user text, p_password_hash text, p_keep text, p_expected text, p_audit text, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  IF p_expected IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM auth_user u WHERE u.id = p_user AND u.password_hash = p_expected AND (p_keep IS NULL OR EXISTS (
      SELECT 1 FROM auth_session s WHERE s.id = p_keep AND s.user_id = u.id AND s.revoked_at IS NULL
        AND s.expires_at > v_at AND s.epoch = u.epoch AND u.status = 'active'))) THEN
    RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, 'changed') r WHERE r.status <> 'deleted';
    RETURN;
  END IF;
  UPDATE auth_user SET password_hash = p_password_hash WHERE id = p_user AND status <> 'deleted';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM runwire_auth_end_sessions(p_user, p_keep, NULL, 'credential_changed', v_at);
  DELETE FROM auth_link WHERE user_id = p_user;
  DELETE FROM auth_reset WHERE user_id = p_user;
  PERFORM runwire_auth_event('credential_changed', v_at, p_user, NULL, NULL, NULL, NULL, true);
  PERFORM runwire_auth_note(p_audit, v_at, p_user);
  RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL);
END
$$

-- Uses a reset up, whatever comes of it. No row: it was not good.
-- name: runwire_auth_reset_password
CREATE FUNCTION runwire_auth_reset_password(p_secret_hash bytea, p_password_hash text, p_audit text, p_at bigint) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_user text;
  v_expires_at bigint;
BEGIN
  DELETE FROM auth_reset WHERE secret_hash = p_secret_hash RETURNING user_id, expires_at INTO v_user, v_expires_at;
  IF v_expires_at > v_at AND EXISTS (SELECT 1 FROM auth_user u WHERE u.id = v_user AND u.status = 'active') THEN
    RETURN QUERY SELECT * FROM runwire_auth_set_password(v_user, p_password_hash, NULL, NULL, p_audit, v_at);
  END IF;
END
$$

-- Keeps a reset; false: no such user. What is over its time goes with the next one that is made.
-- name: runwire_auth_create_reset
CREATE FUNCTION runwire_auth_create_reset(p_user text, p_secret_hash bytea, p_ttl_ms bigint, p_audit text, p_at bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  DELETE FROM auth_reset WHERE expires_at <= v_at;
  INSERT INTO auth_reset (secret_hash, user_id, expires_at)
  SELECT p_secret_hash, u.id, v_at + p_ttl_ms FROM auth_user u WHERE u.id = p_user AND u.status <> 'deleted';
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_note(p_audit, v_at, p_user);
  RETURN true;
END
$$

-- Keeps a sign-in link; likewise.
-- name: runwire_auth_create_link
CREATE FUNCTION runwire_auth_create_link(p_user text, p_secret_hash bytea, p_ttl_ms bigint, p_audit text, p_at bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  DELETE FROM auth_link WHERE secret_hash IN (
    SELECT l.secret_hash FROM auth_link l WHERE l.expires_at <= v_at
    ORDER BY l.expires_at LIMIT 1000 FOR UPDATE OF l SKIP LOCKED);
  INSERT INTO auth_link (secret_hash, user_id, expires_at)
  SELECT p_secret_hash, u.id, v_at + p_ttl_ms FROM auth_user u WHERE u.id = p_user AND u.status <> 'deleted';
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_note(p_audit, v_at, p_user);
  RETURN true;
END
$$

-- Only for who is active in that epoch; and if the client is an API key, for one that has not ended.
-- name: runwire_auth_create_session
CREATE FUNCTION runwire_auth_create_session(
  p_session text, p_user text, p_epoch bigint, p_client text, p_refresh_key bytea, p_ttl_ms bigint, p_address text,
  p_audit text, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_session
    (id, user_id, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at, address)
  SELECT p_session, u.id, p_client, u.epoch, p_refresh_key, 1, v_at, v_at, v_at + p_ttl_ms, p_address
  FROM auth_user u WHERE u.id = p_user AND u.epoch = p_epoch AND u.status = 'active' AND NOT EXISTS (
    SELECT 1 FROM auth_key k WHERE k.id = p_client AND (k.revoked_at IS NOT NULL OR k.expires_at <= v_at));
  IF FOUND THEN
    PERFORM runwire_auth_event('session_created', v_at, p_user, p_session, NULL, NULL, NULL, false);
    PERFORM runwire_auth_note(p_audit, v_at, p_user);
    RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL);
  END IF;
END
$$

-- name: runwire_auth_revoke_session
CREATE FUNCTION runwire_auth_revoke_session(p_session text, p_reason text, p_audit text, p_at bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_user text;
BEGIN
  UPDATE auth_session SET revoked_at = v_at, reason = p_reason WHERE id = p_session AND revoked_at IS NULL
  RETURNING user_id INTO v_user;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_event('session_revoked', v_at, v_user, p_session, NULL, NULL, p_reason, false);
  PERFORM runwire_auth_note(p_audit, v_at, p_session);
  RETURN true;
END
$$

-- Whether this call ended it; NULL: no such user.
-- name: runwire_auth_revoke_external_session
CREATE FUNCTION runwire_auth_revoke_external_session(
  p_session text, p_user text, p_reason text, p_audit text, p_at bigint
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  IF NOT EXISTS (SELECT 1 FROM auth_user u WHERE u.id = p_user AND u.status <> 'deleted') THEN
    RETURN NULL;
  END IF;
  INSERT INTO auth_session
    (id, user_id, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at, revoked_at, reason)
  SELECT p_session, u.id, 'external', u.epoch, '', 1, v_at, v_at, v_at, v_at, p_reason
  FROM auth_user u WHERE u.id = p_user ON CONFLICT (id) DO NOTHING;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_event('session_revoked', v_at, p_user, p_session, NULL, NULL, p_reason, false);
  PERFORM runwire_auth_note(p_audit, v_at, p_session);
  RETURN true;
END
$$

-- Says that a key has ended, and ends the sessions whose client it is. The caller holds the counter's lock.
-- name: runwire_auth_key_revoked
CREATE FUNCTION runwire_auth_key_revoked(p_user text, p_key text, p_reason text, p_at bigint)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_session text;
BEGIN
  PERFORM runwire_auth_event('key_revoked', p_at, p_user, NULL, p_key, NULL, p_reason, false);
  FOR v_session IN
    UPDATE auth_session SET revoked_at = p_at, reason = 'key_revoked'
    WHERE user_id = p_user AND client = p_key AND revoked_at IS NULL RETURNING id
  LOOP
    PERFORM runwire_auth_event('session_revoked', p_at, p_user, v_session, NULL, NULL, 'key_revoked', false);
  END LOOP;
END
$$

-- How many sessions ended; NULL: no such user. Who is spared goes on in the new epoch.
-- name: runwire_auth_sign_out
CREATE FUNCTION runwire_auth_sign_out(
  p_user text, p_keep text, p_with_keys boolean, p_before bigint, p_reason text, p_audit text, p_at bigint
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_moves boolean := p_with_keys OR (p_keep IS NULL AND p_before IS NULL AND EXISTS (
    SELECT 1 FROM auth_external e WHERE e.user_id = p_user));
  v_ended bigint;
  v_epoch bigint;
  v_key text;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM auth_user u WHERE u.id = p_user AND u.status <> 'deleted') THEN
    RETURN NULL;
  END IF;
  v_ended := runwire_auth_end_sessions(p_user, p_keep, p_before, p_reason, v_at);
  IF p_with_keys THEN
    FOR v_key IN
      UPDATE auth_key SET revoked_at = v_at, reason = p_reason
      WHERE user_id = p_user AND revoked_at IS NULL AND (p_before IS NULL OR created_at < p_before) RETURNING id
    LOOP
      PERFORM runwire_auth_key_revoked(p_user, v_key, p_reason, v_at);
    END LOOP;
  END IF;
  IF v_moves THEN
    UPDATE auth_user SET epoch = epoch + 1, valid_from = v_at WHERE id = p_user RETURNING epoch INTO STRICT v_epoch;
    UPDATE auth_session SET epoch = v_epoch WHERE user_id = p_user AND revoked_at IS NULL AND epoch = v_epoch - 1;
    PERFORM runwire_auth_event('signed_out_everywhere', v_at, p_user, NULL, NULL, NULL, p_reason, true);
  END IF;
  IF v_moves OR v_ended > 0 THEN
    PERFORM runwire_auth_note(p_audit, v_at, p_user);
  END IF;
  RETURN v_ended;
END
$$

-- Ends the next so many sessions, by id, of everybody, made before a time; returns their ids.
-- name: runwire_auth_sign_out_before
CREATE FUNCTION runwire_auth_sign_out_before(
  p_before bigint, p_after text, p_limit bigint, p_reason text, p_audit text, p_at bigint
) RETURNS TABLE (id text) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_session record;
BEGIN
  FOR v_session IN
    SELECT s.id, s.user_id FROM auth_session s
    WHERE s.id > p_after AND s.revoked_at IS NULL AND s.created_at < p_before ORDER BY s.id LIMIT p_limit
  LOOP
    UPDATE auth_session s SET revoked_at = v_at, reason = p_reason WHERE s.id = v_session.id;
    PERFORM runwire_auth_event(
      'session_revoked', v_at, v_session.user_id, v_session.id, NULL, NULL, p_reason, false);
    RETURN QUERY SELECT v_session.id::text;
  END LOOP;
  IF v_session.id IS NOT NULL AND p_after = '' THEN
    PERFORM runwire_auth_note(p_audit, v_at, NULL);
  END IF;
END
$$

-- Returns the user, if there is one. Only an active one gets the key.
-- name: runwire_auth_create_key
CREATE FUNCTION runwire_auth_create_key(
  p_key text, p_user text, p_secret_hash bytea, p_label text, p_ttl_ms bigint, p_scopes text, p_audit text, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_key (id, user_id, secret_hash, label, created_at, expires_at, scopes)
  SELECT p_key, u.id, p_secret_hash, p_label, v_at, v_at + p_ttl_ms, p_scopes
  FROM auth_user u WHERE u.id = p_user AND u.status = 'active';
  IF FOUND THEN
    PERFORM runwire_auth_event('key_created', v_at, p_user, NULL, p_key, NULL, NULL, false);
    PERFORM runwire_auth_note(p_audit, v_at, p_key);
  END IF;
  RETURN QUERY SELECT * FROM runwire_auth_user(p_user, v_at, NULL) r WHERE r.status <> 'deleted';
END
$$

-- name: runwire_auth_revoke_key
CREATE FUNCTION runwire_auth_revoke_key(p_key text, p_reason text, p_audit text, p_at bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_user text;
BEGIN
  UPDATE auth_key SET revoked_at = v_at, reason = p_reason WHERE id = p_key AND revoked_at IS NULL
  RETURNING user_id INTO v_user;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_key_revoked(v_user, p_key, p_reason, v_at);
  PERFORM runwire_auth_note(p_audit, v_at, p_key);
  RETURN true;
END
$$

-- Makes a signing key if none signs now; who comes second makes none.
-- name: runwire_auth_create_signing_key
CREATE FUNCTION runwire_auth_create_signing_key(p_kid text, p_private_jwk bytea, p_at bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_signing_key (kid, private_jwk, created_at, activates_at)
  SELECT p_kid, p_private_jwk, v_at, v_at WHERE NOT EXISTS (
    SELECT 1 FROM auth_signing_key k
    WHERE k.revoked_at IS NULL AND k.activates_at <= v_at AND (k.retires_at IS NULL OR k.retires_at > v_at));
  IF FOUND THEN
    PERFORM runwire_auth_event('signing_key_created', v_at, NULL, NULL, NULL, p_kid, NULL, false);
  END IF;
  RETURN v_at;
END
$$

-- Makes a signing key beside the others, which may get an end; the time, or NULL: there is one of this name, or -1: there
-- are that many in force.
-- name: runwire_auth_add_signing_key
CREATE FUNCTION runwire_auth_add_signing_key(
  p_kid text, p_private_jwk bytea, p_activate_in_ms bigint, p_retire_in_ms bigint, p_at_most bigint, p_audit text,
  p_at bigint
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  IF p_at_most <= (
    SELECT count(*) FROM auth_signing_key k WHERE k.revoked_at IS NULL AND (k.retires_at IS NULL OR k.retires_at > v_at)
  ) THEN
    RETURN -1;
  END IF;
  INSERT INTO auth_signing_key (kid, private_jwk, created_at, activates_at)
  VALUES (p_kid, p_private_jwk, v_at, v_at + p_activate_in_ms) ON CONFLICT (kid) DO NOTHING;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF p_retire_in_ms IS NOT NULL THEN
    UPDATE auth_signing_key SET retires_at = least(retires_at, v_at + greatest(p_retire_in_ms, p_activate_in_ms))
    WHERE kid <> p_kid AND revoked_at IS NULL;
  END IF;
  PERFORM runwire_auth_event('signing_key_created', v_at, NULL, NULL, NULL, p_kid, NULL, false);
  PERFORM runwire_auth_note(p_audit, v_at, p_kid);
  RETURN v_at;
END
$$

-- name: runwire_auth_revoke_signing_key
CREATE FUNCTION runwire_auth_revoke_signing_key(p_kid text, p_audit text, p_at bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  UPDATE auth_signing_key SET revoked_at = v_at, private_jwk = '' WHERE kid = p_kid AND revoked_at IS NULL;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_event('signing_key_revoked', v_at, NULL, NULL, NULL, p_kid, NULL, false);
  PERFORM runwire_auth_note(p_audit, v_at, p_kid);
  RETURN true;
END
$$

-- The user of an external identity, made under the first of these names that nobody has.
-- name: runwire_auth_link_external
CREATE FUNCTION runwire_auth_link_external(
  p_hash bytea, p_issuer text, p_subject text, p_user text, p_names text[], p_roles text, p_audit text, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, valid_from bigint, at bigint, fault text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_user text;
BEGIN
  SELECT e.user_id INTO v_user FROM auth_external e WHERE e.subject_hash = p_hash;
  IF NOT FOUND THEN
    v_user := p_user;
    INSERT INTO auth_user (id, name, status, epoch, roles, created_at)
    SELECT p_user, n.name, 'active', 1, p_roles, v_at FROM unnest(p_names) WITH ORDINALITY AS n (name, place)
    WHERE NOT EXISTS (SELECT 1 FROM auth_user u WHERE u.name = n.name) ORDER BY n.place LIMIT 1;
    INSERT INTO auth_external (subject_hash, issuer, subject, user_id) VALUES (p_hash, p_issuer, p_subject, p_user);
    PERFORM runwire_auth_event('user_created', v_at, p_user, NULL, NULL, NULL, 'external', true);
    PERFORM runwire_auth_note(p_audit, v_at, p_user);
  END IF;
  RETURN QUERY SELECT * FROM runwire_auth_user(v_user, v_at, NULL);
END
$$

-- Keeps an invitation; returns the time. What is over goes with the next one that is made.
-- name: runwire_auth_create_invite
CREATE FUNCTION runwire_auth_create_invite(
  p_secret_hash bytea, p_invite text, p_roles text, p_created_by text, p_ttl_ms bigint, p_audit text, p_at bigint
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  DELETE FROM auth_invite WHERE ends_at <= v_at;
  INSERT INTO auth_invite (secret_hash, id, roles, created_by, created_at, ends_at)
  VALUES (p_secret_hash, p_invite, p_roles, p_created_by, v_at, v_at + p_ttl_ms);
  PERFORM runwire_auth_note(p_audit, v_at, p_invite);
  RETURN v_at;
END
$$

-- name: runwire_auth_revoke_invite
CREATE FUNCTION runwire_auth_revoke_invite(p_invite text, p_audit text, p_at bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  DELETE FROM auth_invite WHERE id = p_invite;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM runwire_auth_note(p_audit, v_at, p_invite);
  RETURN true;
END
$$

-- How many rows there were of somebody who is erased.
-- name: runwire_auth_erase_in_audit
CREATE FUNCTION runwire_auth_erase_in_audit(p_words text[]) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_at bigint := runwire_auth_begin(NULL);
  v_rows bigint;
BEGIN
  UPDATE auth_audit a SET
    actor = CASE WHEN a.actor = ANY (p_words) THEN 'erased' ELSE a.actor END,
    subject = CASE WHEN a.subject = ANY (p_words) THEN 'erased' ELSE a.subject END,
    address = CASE WHEN a.address = '' THEN '' ELSE 'erased' END,
    detail = (SELECT coalesce(json_object_agg(d.key, 'erased'), '{}')::text FROM json_each(a.detail::json) d)
  WHERE a.actor = ANY (p_words) OR a.subject = ANY (p_words);
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  RETURN v_rows;
END
$$
