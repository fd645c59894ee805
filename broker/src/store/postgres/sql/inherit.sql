-- Deliveries of $2 in mesh $1 become those of $3, in both lanes; what $3 waits for anyway is left
-- as it is. They count as shared from now on: their envelope names another recipient.
WITH pair AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS p (mesh_id, was, becomes)
),
waiting AS MATERIALIZED (
    SELECT p.mesh_id, p.becomes, d.lane, d.seq, d.bytes, d.place
    FROM pair p
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place, d.lane, d.seq, d.bytes
        FROM broker.delivery d
        WHERE d.mesh_id = p.mesh_id AND d.recipient = p.was
        OFFSET 0
    ) d
),
removed AS (
    DELETE FROM broker.delivery WHERE ctid = ANY (ARRAY(SELECT place FROM waiting))
)
INSERT INTO broker.delivery (mesh_id, recipient, lane, seq, shared, bytes)
SELECT mesh_id, becomes, lane, seq, true, bytes FROM waiting
ON CONFLICT DO NOTHING
