-- The functions with which the PostgreSQL adapter changes the auth tables: one call, one statement, one commit. Each first
-- locks the counter row, so changes come one after the other and the order of their numbers is that of their commits;
-- what it then reads, it reads in a new statement, which sees what was committed while it waited. A NULL for the time
-- is the database's clock.

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
  SELECT v_seq, p_kind, p_at, p_user, p_session, p_key, p_kid,
    CASE WHEN p_has_holder THEN (
      SELECT json_build_object('user', u.id, 'name', u.name, 'status', u.status, 'epoch', u.epoch,
        'roles', u.roles::json, 'created_at', u.created_at)::text
      FROM auth_user u WHERE u.id = p_user) END,
    p_reason;
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

-- name: runwire_auth_create_user
CREATE FUNCTION runwire_auth_create_user(p_user text, p_name text, p_roles text, p_password_hash text, p_at bigint)
RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, at bigint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_user (id, name, status, epoch, roles, password_hash, created_at)
  VALUES (p_user, p_name, 'active', 1, p_roles, p_password_hash, v_at) ON CONFLICT (name) DO NOTHING;
  IF FOUND THEN
    PERFORM runwire_auth_event('user_created', v_at, p_user, NULL, NULL, NULL, NULL, true);
    RETURN QUERY SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, v_at FROM auth_user u WHERE u.id = p_user;
  END IF;
END
$$

-- Disables, enables or gives other roles, if that changes anything.
-- name: runwire_auth_change_user
CREATE FUNCTION runwire_auth_change_user(p_kind text, p_user text, p_roles text, p_at bigint)
RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, at bigint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  IF p_kind = 'user_disabled' THEN
    UPDATE auth_user SET status = 'disabled', epoch = epoch + 1 WHERE id = p_user AND status = 'active';
  ELSIF p_kind = 'user_enabled' THEN
    UPDATE auth_user SET status = 'active' WHERE id = p_user AND status = 'disabled';
  ELSE
    UPDATE auth_user SET roles = p_roles WHERE id = p_user AND roles <> p_roles;
  END IF;
  IF FOUND THEN
    IF p_kind = 'user_disabled' THEN
      UPDATE auth_key SET revoked_at = v_at, reason = 'user_disabled' WHERE user_id = p_user AND revoked_at IS NULL;
    END IF;
    PERFORM runwire_auth_event(p_kind, v_at, p_user, NULL, NULL, NULL, NULL, true);
  END IF;
  RETURN QUERY SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, v_at FROM auth_user u WHERE u.id = p_user;
END
$$

-- name: runwire_auth_set_password
CREATE FUNCTION runwire_auth_set_password(p_user text, p_password_hash text, p_keep text, p_reason text, p_at bigint)
RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, at bigint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
  v_session text;
BEGIN
  UPDATE auth_user SET password_hash = p_password_hash WHERE id = p_user;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  FOR v_session IN
    UPDATE auth_session SET revoked_at = v_at, reason = p_reason
    WHERE user_id = p_user AND id <> p_keep AND revoked_at IS NULL RETURNING id
  LOOP
    PERFORM runwire_auth_event('session_revoked', v_at, p_user, v_session, NULL, NULL, p_reason, false);
  END LOOP;
  PERFORM runwire_auth_event('credential_changed', v_at, p_user, NULL, NULL, NULL, NULL, true);
  RETURN QUERY SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, v_at FROM auth_user u WHERE u.id = p_user;
END
$$

-- name: runwire_auth_create_session
CREATE FUNCTION runwire_auth_create_session(
  p_session text, p_user text, p_epoch bigint, p_client text, p_refresh_key bytea, p_ttl_ms bigint, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, at bigint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_session
    (id, user_id, client, epoch, refresh_key, counter, rotated_at, created_at, expires_at)
  SELECT p_session, u.id, p_client, u.epoch, p_refresh_key, 1, v_at, v_at, v_at + p_ttl_ms
  FROM auth_user u WHERE u.id = p_user AND u.epoch = p_epoch AND u.status = 'active';
  IF FOUND THEN
    PERFORM runwire_auth_event('session_created', v_at, p_user, p_session, NULL, NULL, NULL, false);
    RETURN QUERY SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, v_at FROM auth_user u WHERE u.id = p_user;
  END IF;
END
$$

-- name: runwire_auth_revoke_session
CREATE FUNCTION runwire_auth_revoke_session(p_session text, p_reason text, p_at bigint)
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
  RETURN true;
END
$$

-- Returns the user, if there is one. Only an active one gets the key.
-- name: runwire_auth_create_key
CREATE FUNCTION runwire_auth_create_key(
  p_key text, p_user text, p_secret_hash bytea, p_label text, p_ttl_ms bigint, p_at bigint
) RETURNS TABLE (
  id text, name text, status text, epoch bigint, roles text, created_at bigint, at bigint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_key (id, user_id, secret_hash, label, created_at, expires_at)
  SELECT p_key, u.id, p_secret_hash, p_label, v_at, v_at + p_ttl_ms
  FROM auth_user u WHERE u.id = p_user AND u.status = 'active';
  IF FOUND THEN
    PERFORM runwire_auth_event('key_created', v_at, p_user, NULL, p_key, NULL, NULL, false);
  END IF;
  RETURN QUERY SELECT u.id, u.name, u.status, u.epoch, u.roles, u.created_at, v_at FROM auth_user u WHERE u.id = p_user;
END
$$

-- name: runwire_auth_revoke_key
CREATE FUNCTION runwire_auth_revoke_key(p_key text, p_reason text, p_at bigint)
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
  PERFORM runwire_auth_event('key_revoked', v_at, v_user, NULL, p_key, NULL, p_reason, false);
  RETURN true;
END
$$

-- Makes the first signing key; who comes second makes none.
-- name: runwire_auth_create_signing_key
CREATE FUNCTION runwire_auth_create_signing_key(p_kid text, p_private_jwk bytea, p_at bigint)
RETURNS TABLE (kid text, private_jwk bytea, created_at bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_at bigint := runwire_auth_begin(p_at);
BEGIN
  INSERT INTO auth_signing_key (kid, private_jwk, created_at)
  SELECT p_kid, p_private_jwk, v_at WHERE NOT EXISTS (SELECT 1 FROM auth_signing_key);
  IF FOUND THEN
    PERFORM runwire_auth_event('signing_key_created', v_at, NULL, NULL, NULL, p_kid, NULL, false);
  END IF;
  RETURN QUERY SELECT k.kid, k.private_jwk, k.created_at FROM auth_signing_key k ORDER BY k.created_at, k.kid;
END
$$
