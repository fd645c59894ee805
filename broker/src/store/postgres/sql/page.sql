-- At most $5 rows of a queue above $4, with bodies of at most $6 bytes together; the first row
-- comes whatever its size. Lengths are read without fetching the bodies themselves.
SELECT
    id, seq, sender_member_id, sender_member_pubkey, sender_session_pubkey, sender_name, target,
    priority, nonce, ciphertext, accept_kind, accept_key, fingerprint, reply_to, subtype, topic,
    created_at, found
FROM (
    SELECT
        w.*,
        count(*) OVER () AS found,
        row_number() OVER by_seq AS nth,
        sum(octet_length(nonce) + octet_length(ciphertext)) OVER by_seq AS bytes
    FROM (
        SELECT e.*
        FROM broker.delivery d
        CROSS JOIN LATERAL (
            SELECT *
            FROM broker.envelope e
            WHERE e.mesh_id = d.mesh_id AND e.seq = d.seq
            LIMIT 1
        ) e
        WHERE d.mesh_id = $1 AND d.recipient = $2 AND d.lane = $3 AND d.seq > $4
        ORDER BY d.seq
        -- One more than asked for tells whether there is more.
        LIMIT $5 + 1
    ) w
    WINDOW by_seq AS (ORDER BY seq)
) s
WHERE nth <= $5 AND (bytes <= $6 OR nth = 1)
ORDER BY seq
