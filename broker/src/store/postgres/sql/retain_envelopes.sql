-- The envelopes $2 of mesh $1 and their keys, except those that still have a delivery (it moved
-- between this statement and the one before, or was passed by): the next pass takes them.
WITH free AS MATERIALIZED (
    SELECT e.*
    FROM unnest($2::bigint[]) AS s (seq)
    CROSS JOIN LATERAL (
        SELECT
            e.ctid AS place, e.seq, e.id, e.sender_member_id, e.accept_kind, e.accept_key,
            e.delivered_at IS NULL AS unconfirmed
        FROM broker.envelope e
        WHERE e.mesh_id = $1 AND e.seq = s.seq
            AND (
                SELECT true
                FROM broker.delivery d
                WHERE d.mesh_id = $1 AND d.recipient = e.recipients
                    AND d.lane = e.lane AND d.seq = e.seq
                LIMIT 1
            ) IS NULL
            AND (
                SELECT true
                FROM broker.delivery d
                WHERE d.mesh_id = $1 AND d.seq = e.seq AND d.shared
                LIMIT 1
            ) IS NULL
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) e
),
removed AS (
    DELETE FROM broker.envelope WHERE ctid = ANY (ARRAY(SELECT place FROM free))
),
forgotten AS (
    DELETE FROM broker.accepted k
    USING free f
    WHERE k.mesh_id = $1 AND k.member_id = f.sender_member_id
        AND k.kind = f.accept_kind AND k.key = f.accept_key AND k.message_id = f.id
),
remembered AS (
    INSERT INTO broker.retired AS r (mesh_id, seq)
    SELECT $1, max(seq) FROM free HAVING count(*) > 0
    ON CONFLICT (mesh_id) DO UPDATE SET seq = greatest(r.seq, excluded.seq)
)
SELECT count(*) AS envelopes, count(*) FILTER (WHERE unconfirmed) AS unconfirmed FROM free
