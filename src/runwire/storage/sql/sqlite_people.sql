-- The backend's own rows of users. An empty issuer: who it was, was forgotten; threads keep the bare id.

-- name: who_is
SELECT id FROM user WHERE iss = ?1 AND sub = ?2

-- name: person
SELECT id, iss, sub, created_at, quarantined_at FROM user WHERE id = ?1 AND iss <> ''

-- name: people
SELECT id, iss, sub, created_at, quarantined_at FROM user WHERE id > ?1 AND iss <> '' ORDER BY id LIMIT ?2

-- name: add_person
INSERT INTO user (id, iss, sub, created_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO NOTHING RETURNING id

-- When they were met: anew, if they were forgotten.
-- name: correct_person
UPDATE user SET iss = ?2, sub = ?3, created_at = CASE WHEN iss = '' THEN ?4 ELSE created_at END
WHERE id = ?1 AND (iss <> ?2 OR sub <> ?3)

-- name: quarantine_person
UPDATE user SET quarantined_at = ?2 WHERE id = ?1 AND iss <> '' AND quarantined_at IS NULL RETURNING id

-- name: release_person
UPDATE user SET quarantined_at = NULL WHERE id = ?1 AND quarantined_at IS NOT NULL RETURNING id

-- name: forget_person
UPDATE user SET iss = '', sub = id, quarantined_at = NULL WHERE id = ?1 AND iss <> '' RETURNING id
