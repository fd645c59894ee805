-- Entries of the chain of mesh $1, newest first: $2 of them after the newest $3; only of kind $4,
-- if given; of sent messages only those of member $5, if given. No more than the newest $6 are
-- looked at.
SELECT
    id::bigint AS id, event_type, actor_member_id, actor_display_name, payload::text AS payload,
    prev_hash, hash, floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at
FROM (
    SELECT * FROM mesh.audit_log WHERE mesh_id = $1
    ORDER BY mesh_id DESC, audit_log.id DESC
    LIMIT $6
) recent
WHERE ($4::text IS NULL OR event_type = $4)
    AND ($5::text IS NULL OR event_type <> 'message_sent' OR actor_member_id IS NOT DISTINCT FROM $5)
ORDER BY mesh_id DESC, recent.id DESC
LIMIT $2 OFFSET $3
