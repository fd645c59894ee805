-- The time of going away is noted once and kept until the holder is back.
INSERT INTO broker.lease AS l (mesh_id, presence_id, body, away_at)
SELECT s.mesh_id, s.presence_id, s.body, CASE WHEN s.away THEN now() END
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[])
    AS s (mesh_id, presence_id, body, away)
ON CONFLICT (mesh_id, presence_id) DO UPDATE SET
    body = excluded.body,
    away_at = CASE WHEN excluded.away_at IS NOT NULL
        THEN coalesce(l.away_at, excluded.away_at) END
