-- Every statement of the bus over NOTIFY.

-- A hint need not be on the disk: so it waits for none, while it holds the lock that all notifying commits take in turn.
-- name: be_quick
SET synchronous_commit = off

-- All that there is to say in one commit.
-- name: notify
SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)
