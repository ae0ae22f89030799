-- Which of several databases this one is.

-- name: place
SELECT place_set, place, places, EXISTS (SELECT 1 FROM "user") AS is_used FROM meta WHERE key = 1

-- Once and for all, and only while nobody lives here: whom the list places elsewhere would not be found any more.
-- name: take_place
UPDATE meta SET place_set = $1, place = $2, places = $3
WHERE key = 1 AND place_set IS NULL AND NOT EXISTS (SELECT 1 FROM "user")
