-- The next $3 entries of the chain of mesh $1 above row $2, oldest first.
SELECT
    id::bigint AS id, event_type, actor_member_id, actor_display_name, payload::text AS payload,
    prev_hash, hash, floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at
FROM mesh.audit_log
WHERE mesh_id = $1 AND audit_log.id > $2::bigint
ORDER BY mesh_id, audit_log.id
LIMIT $3
