-- The message at $2 of mesh $1, and who has not confirmed it: its own recipient, or those found
-- through the index of shared deliveries.
SELECT
    e.id, e.sender_member_id, e.target, e.recipients, e.delivered_at,
    e.undeliverable_at IS NOT NULL AS undeliverable,
    ARRAY(
        SELECT k.member_id
        FROM broker.session_key k
        WHERE k.mesh_id = e.mesh_id
            AND k.key IN (
                SELECT substr(r, 3) FROM unnest(string_to_array(e.recipients, ' ')) r
                WHERE starts_with(r, 's:')
            )
    ) AS members,
    ARRAY(
        SELECT d.recipient
        FROM broker.delivery d
        WHERE d.mesh_id = e.mesh_id AND d.recipient = e.recipients
            AND d.lane = e.lane AND d.seq = e.seq
    ) || ARRAY(
        SELECT d.recipient
        FROM broker.delivery d
        WHERE d.mesh_id = e.mesh_id AND d.seq = e.seq AND d.shared
        ORDER BY d.recipient
    ) AS waiting
FROM broker.envelope e
WHERE e.mesh_id = $1 AND e.seq = $2
