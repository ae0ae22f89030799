-- Every statement of the bus over NOTIFY.

-- All that there is to say in one commit, which takes the lock that all notifying commits of the server take in turn, and
-- waits for no disk: it has written no row.
-- name: notify
SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)
