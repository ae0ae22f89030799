-- The backend's own rows of users. An empty issuer: who it was, was forgotten; threads keep the bare id.

-- name: person
SELECT id, iss, sub, created_at, quarantined_at FROM "user" WHERE id = $1 AND iss <> ''

-- name: people
SELECT id, iss, sub, created_at, quarantined_at FROM "user" WHERE id > $1 AND iss <> '' ORDER BY id LIMIT $2

-- What became of it: `first`, `known`, or `taken` by another user.
-- name: meet
SELECT runwire_meet($1, $2, $3)

-- name: quarantine_person
UPDATE "user" SET quarantined_at = runwire_now() WHERE id = $1 AND iss <> '' AND quarantined_at IS NULL RETURNING id

-- name: release_person
UPDATE "user" SET quarantined_at = NULL WHERE id = $1 AND quarantined_at IS NOT NULL RETURNING id

-- name: forget_person
UPDATE "user" SET iss = '', sub = id, quarantined_at = NULL WHERE id = $1 AND iss <> '' RETURNING id
