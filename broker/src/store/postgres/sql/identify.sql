SELECT
    coalesce(nullif(m.name, ''), nullif(m.slug, ''), m.id) AS mesh_name,
    m.archived_at IS NOT NULL AS archived,
    m.self_editable::text AS self_editable,
    k.member_id AS key_member,
    p.id, p.peer_pubkey, p.display_name, p.role::text AS role, p.role_tag,
    p.default_groups::text AS default_groups, p.message_mode, p.revoked_at IS NOT NULL AS revoked
FROM mesh.mesh m
LEFT JOIN broker.session_key k ON k.mesh_id = m.id AND k.key = $3
LEFT JOIN LATERAL (
    SELECT *
    FROM mesh.member p
    WHERE p.mesh_id = m.id AND p.peer_pubkey = $2
    ORDER BY p.revoked_at IS NOT NULL, p.joined_at, p.id
    LIMIT 1
) p ON true
WHERE m.id = $1
