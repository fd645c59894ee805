-- The first member to prove a key keeps it, until others delete that member. That it was proven again
-- is noted every few hours: a session that reconnects again and again does not write each time.
INSERT INTO broker.session_key AS s (mesh_id, key, member_id, proven_at)
SELECT k.mesh_id, k.key, k.member_id, now()
FROM (
    SELECT DISTINCT ON (k.mesh_id, k.key) k.*
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY
        AS k (mesh_id, key, member_id, place)
    ORDER BY k.mesh_id, k.key, k.place
) k
ON CONFLICT (mesh_id, key) DO UPDATE
    SET member_id = excluded.member_id, proven_at = excluded.proven_at
    WHERE (s.member_id = excluded.member_id AND s.proven_at < now() - interval '6 hours')
        OR NOT EXISTS (
            SELECT FROM mesh.member m WHERE m.id = s.member_id COLLATE "default"
        )
