-- How many entries audit.sql has to choose from: up to a million are counted.
SELECT count(*)
FROM (
    SELECT
    FROM mesh.audit_log
    WHERE mesh_id = $1
        AND ($2::text IS NULL OR event_type = $2)
        AND ($3::text IS NULL OR event_type <> 'message_sent'
            OR actor_member_id IS NOT DISTINCT FROM $3)
    LIMIT 1000000
) entry
