-- What waits for $2 in mesh $1 and was addressed to the key $3 reaches nobody any more: the deliveries
-- go, and the bodies with them. Such an envelope has one recipient.
WITH ended AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS p (mesh_id, recipient, key)
),
waiting AS MATERIALIZED (
    SELECT d.place AS delivery, e.place AS envelope
    FROM ended p
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place, d.seq
        FROM broker.delivery d
        WHERE d.mesh_id = p.mesh_id AND d.recipient = p.recipient
        OFFSET 0
    ) d
    CROSS JOIN LATERAL (
        SELECT e.ctid AS place
        FROM broker.envelope e
        WHERE e.mesh_id = p.mesh_id AND e.seq = d.seq AND e.target = p.key
        LIMIT 1
    ) e
),
removed AS (
    DELETE FROM broker.delivery WHERE ctid = ANY (ARRAY(SELECT delivery FROM waiting))
)
UPDATE broker.envelope
SET nonce = '', ciphertext = '', undeliverable_at = (extract(epoch FROM now()) * 1000)::bigint
WHERE ctid = ANY (ARRAY(SELECT envelope FROM waiting))
