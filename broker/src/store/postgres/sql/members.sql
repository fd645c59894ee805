-- The members of mesh $1 that answer to $2: those with that key, else those with that name, else
-- (unless removed ones are asked for, $3) those whose key begins with it. At most $4, each key once.
WITH candidate AS MATERIALIZED (
    SELECT DISTINCT ON (p.peer_pubkey) p.*,
        CASE
            WHEN p.peer_pubkey IN ($2, lower($2)) THEN 0
            WHEN p.display_name = $2 THEN 1
            WHEN NOT $3 AND $2 <> '' AND starts_with(p.peer_pubkey, lower($2)) THEN 2
        END AS rank
    FROM mesh.member p
    WHERE p.mesh_id = $1 AND (p.revoked_at IS NOT NULL) = $3
        -- Removed, invited again: not removed any more.
        AND NOT ($3 AND EXISTS (
            SELECT FROM mesh.member l
            WHERE l.mesh_id = $1 AND l.peer_pubkey = p.peer_pubkey AND l.revoked_at IS NULL
        ))
    ORDER BY p.peer_pubkey, (
        p.peer_pubkey IN ($2, lower($2)) OR p.display_name = $2
    ) DESC, p.joined_at, p.id
)
SELECT
    p.id, p.peer_pubkey, p.display_name, p.role::text AS role, p.role_tag,
    p.default_groups::text AS default_groups, p.message_mode, p.revoked_at IS NOT NULL AS revoked,
    coalesce(p.user_id = m.owner_user_id, false)
        OR coalesce(lower(p.peer_pubkey) = lower(m.owner_pubkey), false) AS owner,
    p.peer_grants::text AS grants
FROM candidate p
JOIN mesh.mesh m ON m.id = $1
WHERE p.rank = (SELECT min(rank) FROM candidate)
ORDER BY p.joined_at, p.id
LIMIT $4
