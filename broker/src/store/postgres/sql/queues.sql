-- The queues of mesh $1 that hold anything, each with its highest sequence: one index descent per
-- queue, from the last queue to the first, however much waits in them. Each descent starts at the
-- newest entry, because the oldest are the ones that were confirmed and may lie dead in the index.
WITH RECURSIVE queue AS (
    (
        SELECT d.recipient, d.lane, d.seq
        FROM broker.delivery d
        WHERE d.mesh_id = $1
        ORDER BY d.mesh_id DESC, d.recipient DESC, d.lane DESC, d.seq DESC
        LIMIT 1
    )
    UNION ALL
    SELECT before.recipient, before.lane, before.seq
    FROM queue q
    CROSS JOIN LATERAL (
        SELECT d.recipient, d.lane, d.seq
        FROM broker.delivery d
        WHERE d.mesh_id = $1 AND (d.recipient, d.lane) < (q.recipient, q.lane)
        ORDER BY d.mesh_id DESC, d.recipient DESC, d.lane DESC, d.seq DESC
        LIMIT 1
    ) before
)
SELECT recipient, lane, seq FROM queue
