-- Member $2 of mesh $1, if it is one, and what command $3 was answered, if it was executed.
SELECT
    p.id, p.peer_pubkey, p.display_name, p.role::text AS role, p.role_tag,
    p.default_groups::text AS default_groups, p.message_mode, p.revoked_at IS NOT NULL AS revoked,
    coalesce(p.user_id = m.owner_user_id, false)
        OR coalesce(lower(p.peer_pubkey) = lower(m.owner_pubkey), false) AS owner,
    p.peer_grants::text AS grants,
    c.reply AS done
FROM (SELECT) one
LEFT JOIN broker.command c ON c.mesh_id = $1 AND c.command = $3
LEFT JOIN mesh.mesh m ON m.id = $1
LEFT JOIN LATERAL (
    SELECT *
    FROM mesh.member p
    WHERE p.id = $2 AND p.mesh_id = $1
    LIMIT 1
) p ON true
