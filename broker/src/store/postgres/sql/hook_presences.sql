-- Presences of all meshes whose session is $1, or whose process is $3 (any, if it is not given) in
-- directory $2. One of $1 and $2 is given.
SELECT l.mesh_id, l.presence_id, l.member_id, p.peer_pubkey
FROM (
    SELECT l.mesh_id, l.presence_id, l.member_id FROM broker.lease l WHERE l.session_id = $1
    UNION ALL
    SELECT l.mesh_id, l.presence_id, l.member_id
    FROM broker.lease l
    WHERE l.cwd = $2 AND ($3::bigint IS NULL OR l.pid = $3)
) l
CROSS JOIN LATERAL (
    SELECT p.peer_pubkey FROM mesh.member p WHERE p.id = l.member_id LIMIT 1
) p
ORDER BY l.mesh_id, l.presence_id
LIMIT 64
