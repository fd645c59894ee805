-- Deliveries of the envelopes $2 of mesh $1. One that a commit is confirming or moving right now is
-- passed by: retention never waits for a commit.
WITH expired AS MATERIALIZED (
    SELECT e.seq, e.lane, e.recipients
    FROM unnest($2::bigint[]) AS s (seq)
    CROSS JOIN LATERAL (
        SELECT e.seq, e.lane, e.recipients
        FROM broker.envelope e
        WHERE e.mesh_id = $1 AND e.seq = s.seq AND e.delivered_at IS NULL
        LIMIT 1
    ) e
),
own AS MATERIALIZED (
    SELECT d.place
    FROM expired e
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place
        FROM broker.delivery d
        WHERE d.mesh_id = $1 AND d.recipient = e.recipients AND d.lane = e.lane AND d.seq = e.seq
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) d
),
shared AS MATERIALIZED (
    SELECT d.place
    FROM expired e
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place
        FROM broker.delivery d
        WHERE d.mesh_id = $1 AND d.seq = e.seq AND d.shared
        FOR UPDATE SKIP LOCKED
    ) d
)
DELETE FROM broker.delivery
WHERE ctid = ANY (ARRAY(SELECT place FROM own UNION ALL SELECT place FROM shared))
