-- What is done to a copy of a data file, so that whoever opens it goes on as another history. Each may look at a whole
-- table: it is done once, beside nobody.

-- Unlike a copy of pages it has no free ones, and so nothing that was deleted.
-- name: copy_into
VACUUM INTO ?1

-- name: pages
PRAGMA page_count

-- name: quick_journal
PRAGMA journal_mode = MEMORY

-- name: plain_journal
PRAGMA journal_mode = DELETE

-- name: alone
PRAGMA locking_mode = EXCLUSIVE

-- name: no_sync
PRAGMA synchronous = OFF

-- What is deleted is overwritten: a copy travels.
-- name: secure_delete
PRAGMA secure_delete = ON

-- name: integrity
PRAGMA integrity_check(1)

-- What a database of ours never has, and what would run whenever somebody reads or writes.
-- name: foreign_code
SELECT type || ' ' || name FROM sqlite_schema WHERE type IN ('trigger', 'view') OR sql LIKE 'CREATE VIRTUAL %' LIMIT 1

-- name: log
SELECT log FROM meta WHERE key = 1

-- The mark of a copy: no log. Whoever opens it gives it one.
-- name: take_log_away
UPDATE meta SET log = '' WHERE key = 1

-- name: give_log
UPDATE meta SET log = ?1 WHERE key = 1

-- name: give_generation
UPDATE auth_counter SET generation = ?1 WHERE key = 1

-- What the people of the other history hold must open nothing here. One block for each table.
-- name: forget_signing_keys
DELETE FROM auth_signing_key

-- name: forget_sessions
DELETE FROM auth_session

-- name: forget_links
DELETE FROM auth_link

-- name: forget_tickets
DELETE FROM auth_ticket

-- One that was used since would be good again.
-- name: forget_invites
DELETE FROM auth_invite

-- name: forget_resets
DELETE FROM auth_reset
