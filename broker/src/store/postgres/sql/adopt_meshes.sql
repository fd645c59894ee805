-- Living meshes for which the reference broker has undelivered messages of members.
SELECT DISTINCT q.mesh_id
FROM mesh.message_queue q
JOIN mesh.mesh m ON m.id = q.mesh_id AND m.archived_at IS NULL
JOIN mesh.member s ON s.id = q.sender_member_id AND s.revoked_at IS NULL
WHERE q.delivered_at IS NULL AND q.created_at > (now() AT TIME ZONE 'UTC') - interval '7 days'
ORDER BY q.mesh_id
