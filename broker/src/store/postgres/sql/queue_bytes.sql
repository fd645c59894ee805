-- Bytes of the bodies that wait in mesh $1: for each recipient, and (of nobody) in all, where a body
-- that waits for several counts once.
WITH waiting AS MATERIALIZED (
    SELECT d.recipient, d.seq, d.shared, coalesce(d.bytes, e.bytes, 0) AS bytes
    FROM broker.delivery d
    LEFT JOIN LATERAL (
        SELECT octet_length(e.nonce) + octet_length(e.ciphertext) AS bytes
        FROM broker.envelope e
        WHERE d.bytes IS NULL AND e.mesh_id = d.mesh_id AND e.seq = d.seq
        LIMIT 1
    ) e ON true
    WHERE d.mesh_id = $1
)
SELECT NULL AS recipient,
    coalesce(sum(w.bytes) FILTER (WHERE NOT w.shared), 0)::bigint + (
        SELECT coalesce(sum(s.bytes), 0)::bigint
        FROM (SELECT max(w.bytes) AS bytes FROM waiting w WHERE w.shared GROUP BY w.seq) s
    ) AS bytes
FROM waiting w
UNION ALL
SELECT w.recipient, sum(w.bytes)::bigint FROM waiting w GROUP BY w.recipient
