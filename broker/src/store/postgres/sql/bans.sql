-- Who has been removed from mesh $1, the last one first, each key once. Whoever was invited again
-- is not among them.
SELECT b.display_name, b.peer_pubkey,
    floor(extract(epoch FROM b.revoked_at) * 1000)::bigint AS revoked_at
FROM (
    SELECT DISTINCT ON (p.peer_pubkey) p.display_name, p.peer_pubkey, p.revoked_at, p.id
    FROM mesh.member p
    WHERE p.mesh_id = $1 AND p.revoked_at IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM mesh.member l
            WHERE l.mesh_id = $1 AND l.peer_pubkey = p.peer_pubkey AND l.revoked_at IS NULL
        )
    ORDER BY p.peer_pubkey, p.revoked_at DESC, p.id
) b
ORDER BY b.revoked_at DESC, b.id
LIMIT 1000
