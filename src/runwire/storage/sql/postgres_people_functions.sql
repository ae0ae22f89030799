-- How somebody is met: any number of times at once makes one row. It relates two users only to refuse: one identity of
-- an issuer is one user, and who would be a second one here learns no more than that.

-- name: runwire_meet
CREATE FUNCTION runwire_meet(p_user text, p_iss text, p_sub text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_user text;
  v_iss text;
  v_sub text;
BEGIN
  -- Twice at most: who was faster has committed then.
  FOR v_try IN 1..2 LOOP
    SELECT u.id INTO v_user FROM "user" u WHERE u.iss = p_iss AND u.sub = p_sub;
    IF FOUND THEN
      RETURN CASE WHEN v_user = p_user THEN 'known' ELSE 'taken' END;
    END IF;
    INSERT INTO "user" (id, iss, sub, created_at) VALUES (p_user, p_iss, p_sub, runwire_now()) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      RETURN 'first';
    END IF;
    SELECT u.iss, u.sub INTO v_iss, v_sub FROM "user" u WHERE u.id = p_user FOR UPDATE;
    CONTINUE WHEN NOT FOUND OR (v_iss, v_sub) = (p_iss, p_sub);
    BEGIN
      UPDATE "user" SET iss = p_iss, sub = p_sub, created_at = CASE WHEN iss = '' THEN runwire_now() ELSE created_at END
      WHERE id = p_user;
    EXCEPTION WHEN unique_violation THEN
      RETURN 'taken';
    END;
    RETURN CASE WHEN v_iss = '' THEN 'first' ELSE 'known' END;
  END LOOP;
  RETURN 'known';
END
$$
