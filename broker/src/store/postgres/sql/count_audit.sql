-- How many entries audit.sql has to choose from.
SELECT count(*)
FROM (
    SELECT event_type, actor_member_id FROM mesh.audit_log WHERE mesh_id = $1
    ORDER BY mesh_id DESC, audit_log.id DESC
    LIMIT $4
) recent
WHERE ($2::text IS NULL OR event_type = $2)
    AND ($3::text IS NULL OR event_type <> 'message_sent' OR actor_member_id IS NOT DISTINCT FROM $3)
