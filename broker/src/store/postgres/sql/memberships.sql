-- The members that hold leases in the meshes $1: whether each has been removed (or deleted), and
-- whether it may moderate. A row for each mesh at least, without a member where nobody is here.
SELECT
    g.mesh_id, coalesce(m.archived, true) AS archived,
    h.member_id, h.removed, h.moderates
FROM unnest($1::text[]) AS g (mesh_id)
LEFT JOIN LATERAL (
    SELECT m.archived_at IS NOT NULL AS archived, m.owner_user_id, m.owner_pubkey
    FROM mesh.mesh m
    WHERE m.id = g.mesh_id
    LIMIT 1
) m ON true
LEFT JOIN LATERAL (
    SELECT
        l.member_id,
        p.id IS NULL OR p.revoked_at IS NOT NULL AS removed,
        coalesce(p.role::text = 'admin', false)
            OR coalesce(p.user_id = m.owner_user_id, false)
            OR coalesce(lower(p.peer_pubkey) = lower(m.owner_pubkey), false) AS moderates
    FROM (SELECT DISTINCT l.member_id FROM broker.lease l WHERE l.mesh_id = g.mesh_id) l
    LEFT JOIN LATERAL (
        SELECT *
        FROM mesh.member p
        WHERE p.id = l.member_id AND p.mesh_id = g.mesh_id
        LIMIT 1
    ) p ON true
    -- Written by a version that did not note whose a lease is.
    WHERE l.member_id <> ''
) h ON true
