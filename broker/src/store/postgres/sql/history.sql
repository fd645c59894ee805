-- Accepted messages enter the history of their topics, in order. What a message answers is kept if
-- it is of the same topic: there already, or earlier in the same list. A topic or member that is
-- gone meanwhile takes its history along.
WITH given AS MATERIALIZED (
    SELECT h.*
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::int[], $9::text[], $10::bigint[]
    ) WITH ORDINALITY AS h (
        mesh_id, id, topic_id, member_id, session_pubkey, nonce, ciphertext, body_version,
        reply_to, created_at, place
    )
)
INSERT INTO mesh.topic_message (
    id, topic_id, sender_member_id, sender_session_pubkey, nonce, ciphertext, body_version,
    reply_to_id, created_at
)
SELECT
    h.id, h.topic_id, h.member_id, h.session_pubkey, h.nonce, h.ciphertext, h.body_version,
    CASE
        WHEN EXISTS (
            SELECT FROM mesh.topic_message m WHERE m.id = h.reply_to AND m.topic_id = h.topic_id
        ) OR EXISTS (
            SELECT FROM given g
            WHERE g.id = h.reply_to AND g.topic_id = h.topic_id AND g.place < h.place
        ) THEN h.reply_to
    END,
    timestamp '1970-01-01' + h.created_at * interval '1 millisecond'
FROM given h
CROSS JOIN LATERAL (
    SELECT FROM mesh.topic t WHERE t.id = h.topic_id AND t.mesh_id = h.mesh_id LIMIT 1
) t
CROSS JOIN LATERAL (SELECT FROM mesh.member m WHERE m.id = h.member_id LIMIT 1) m
ORDER BY h.place
