-- Takes back what waits of member $2 of mesh $1, or for it: for itself, for the session keys it has
-- proven, for the recipients $3. Answers how many deliveries.
--
-- What then waits for nobody loses its body, and is not noted as delivered: it was not. What the
-- member has sent is found by walking all that waits in the mesh; an index of senders would cost
-- every message, and a member is seldom removed.
WITH target AS MATERIALIZED (
    SELECT 'm:' || $2::text COLLATE "C" AS recipient
    UNION
    SELECT 's:' || k.key FROM broker.session_key k WHERE k.mesh_id = $1 AND k.member_id = $2
    UNION
    SELECT unnest($3::text[])
),
found AS MATERIALIZED (
    SELECT d.place, d.seq
    FROM target t
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place, d.seq
        FROM broker.delivery d
        WHERE d.mesh_id = $1 AND d.recipient = t.recipient
        OFFSET 0
    ) d
    UNION
    SELECT d.place, d.seq
    FROM (
        SELECT d.ctid AS place, d.seq FROM broker.delivery d WHERE d.mesh_id = $1 OFFSET 0
    ) d
    CROSS JOIN LATERAL (
        SELECT true
        FROM broker.envelope e
        WHERE e.mesh_id = $1 AND e.seq = d.seq AND e.sender_member_id = $2
        LIMIT 1
    ) e
),
removed AS (
    DELETE FROM broker.delivery WHERE ctid = ANY (ARRAY(SELECT place FROM found))
),
-- A delivery that waits for another is found where its envelope says, or as a shared one.
finished AS MATERIALIZED (
    SELECT e.place
    FROM (SELECT seq, array_agg(place) AS places FROM found GROUP BY seq) f
    CROSS JOIN LATERAL (
        SELECT e.ctid AS place
        FROM broker.envelope e
        WHERE e.mesh_id = $1 AND e.seq = f.seq
            AND (
                SELECT true
                FROM broker.delivery d
                WHERE d.mesh_id = $1 AND d.seq = f.seq AND d.shared
                    AND d.ctid <> ALL (f.places)
                LIMIT 1
            ) IS NULL
        LIMIT 1
    ) e
),
emptied AS (
    UPDATE broker.envelope SET nonce = '', ciphertext = ''
    WHERE ctid = ANY (ARRAY(SELECT place FROM finished))
)
SELECT count(*) FROM found
