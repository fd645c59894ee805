-- The time of going away is noted once and kept until the holder is back.
INSERT INTO broker.lease AS l (
    mesh_id, presence_id, body, away_at, member_id, session_id, cwd, pid
)
SELECT
    s.mesh_id, s.presence_id, s.body, CASE WHEN s.away THEN now() END,
    s.member_id, s.session_id, s.cwd, s.pid
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[],
    $8::bigint[]
) AS s (mesh_id, presence_id, body, away, member_id, session_id, cwd, pid)
ON CONFLICT (mesh_id, presence_id) DO UPDATE SET
    body = excluded.body,
    away_at = CASE WHEN excluded.away_at IS NOT NULL
        THEN coalesce(l.away_at, excluded.away_at) END,
    member_id = excluded.member_id,
    session_id = excluded.session_id,
    cwd = excluded.cwd,
    pid = excluded.pid
