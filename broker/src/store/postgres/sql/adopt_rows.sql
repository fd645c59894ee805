-- The next $4 undelivered messages of mesh $1 behind row ($2, $3), in the order of the reference
-- broker. Locked: two nodes that start at once do not take one message twice.
SELECT
    q.id, q.sender_member_id, s.peer_pubkey, s.display_name, q.sender_session_pubkey,
    q.target_spec, q.priority::text AS priority, q.nonce, q.ciphertext, q.client_message_id,
    q.request_fingerprint, q.created_at::text AS place,
    floor(extract(epoch FROM q.created_at) * 1000)::bigint AS created_at
FROM mesh.message_queue q
JOIN mesh.member s ON s.id = q.sender_member_id AND s.revoked_at IS NULL
WHERE q.mesh_id = $1 AND q.delivered_at IS NULL
    AND q.created_at > (now() AT TIME ZONE 'UTC') - interval '7 days'
    AND (q.created_at, q.id) > ($2::text::timestamp, $3)
ORDER BY q.created_at, q.id
LIMIT $4
FOR UPDATE OF q
