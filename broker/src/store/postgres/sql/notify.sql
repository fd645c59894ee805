-- Tells members that they were mentioned in a message that is in its topic's history.
INSERT INTO mesh.notification (
    id, mesh_id, topic_id, message_id, recipient_member_id, sender_member_id, kind, created_at
)
SELECT
    replace(gen_random_uuid()::text, '-', ''), n.mesh_id, m.topic_id, n.message_id,
    n.recipient, m.sender_member_id, 'mention', m.created_at
FROM unnest($1::text[], $2::text[], $3::text[]) AS n (mesh_id, message_id, recipient)
CROSS JOIN LATERAL (
    SELECT m.topic_id, m.sender_member_id, m.created_at
    FROM mesh.topic_message m
    WHERE m.id = n.message_id
    LIMIT 1
) m
ON CONFLICT DO NOTHING
