-- Accepts, confirmations and audit entries of a whole batch, in one statement and one snapshot.
--
-- $1, $2: meshes and the epochs they believe in. Rows name theirs by its place in that list.
-- $3..$23: accepts. $24..$29: confirmations. $30..$38: audit entries. Each list is one array per
-- column.
--
-- Every look into a table is LATERAL with a LIMIT, which the planner can only run as one index
-- descent per row: it cannot know how long the arrays are, and what it believes about the queue
-- tables is always out of date.
WITH fence AS MATERIALIZED (
    -- Locks what is at its epoch and not being moved. Nobody waits here.
    SELECT array_agg(o.held IS NOT NULL ORDER BY m.place) AS held
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS m (mesh_id, epoch, place)
    LEFT JOIN LATERAL (
        SELECT true AS held
        FROM broker.mesh_owner o
        WHERE o.mesh_id = m.mesh_id AND o.epoch = m.epoch
        FOR SHARE SKIP LOCKED
    ) o ON true
),
-- The snapshot holds every key that earlier commits of these meshes wrote: those under earlier
-- epochs had ended before the epoch was minted, and one epoch's commits follow each other. Were
-- that ever untrue, the primary keys refuse the batch.
incoming AS MATERIALIZED (
    SELECT a.*, k.message_id AS original, k.fingerprint AS original_fingerprint
    FROM unnest(
        $3::int[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::smallint[], $14::text[], $15::text[],
        $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
        $22::bigint[], $23::text[]
    ) WITH ORDINALITY AS a (
        mesh, mesh_id, seq, id, sender_member_id, sender_member_pubkey, sender_session_pubkey,
        sender_name, target, priority, lane, nonce, ciphertext,
        accept_kind, accept_key, fingerprint, reply_to, subtype, topic, created_at, recipients,
        place
    )
    LEFT JOIN LATERAL (
        SELECT k.message_id, k.fingerprint
        FROM broker.accepted k
        WHERE k.mesh_id = a.mesh_id AND k.member_id = a.sender_member_id
            AND k.kind = a.accept_kind AND k.key = a.accept_key
        LIMIT 1
    ) k ON true
    WHERE ((SELECT held FROM fence))[a.mesh]
),
-- A mesh with one known key writes nothing: its audit chain runs through all it would write.
free AS MATERIALIZED (
    SELECT array_agg(held.held AND k.mesh IS NULL ORDER BY held.place) AS writes
    FROM (SELECT held FROM fence) f
    CROSS JOIN LATERAL unnest(f.held) WITH ORDINALITY AS held (held, place)
    LEFT JOIN (SELECT DISTINCT mesh FROM incoming WHERE original IS NOT NULL) k
        ON k.mesh = held.place
),
keyed AS (
    INSERT INTO broker.accepted (mesh_id, member_id, kind, key, message_id, fingerprint)
    SELECT mesh_id, sender_member_id, accept_kind, accept_key, id, fingerprint
    FROM incoming
    WHERE ((SELECT writes FROM free))[mesh]
),
stored AS (
    INSERT INTO broker.envelope (
        mesh_id, seq, id, sender_member_id, sender_member_pubkey, sender_session_pubkey,
        sender_name, target, priority, lane, nonce, ciphertext, accept_kind, accept_key,
        fingerprint, reply_to, subtype, topic, created_at, recipients, delivered_at
    )
    SELECT
        mesh_id, seq, id, sender_member_id, sender_member_pubkey, sender_session_pubkey,
        sender_name, target, priority, lane, nonce, ciphertext, accept_kind, accept_key,
        fingerprint, reply_to, subtype, topic, created_at, recipients,
        CASE WHEN recipients = '' THEN (extract(epoch FROM now()) * 1000)::bigint END
    FROM incoming
    WHERE ((SELECT writes FROM free))[mesh]
),
queued AS (
    INSERT INTO broker.delivery (mesh_id, recipient, lane, seq, shared, bytes)
    SELECT i.mesh_id, r.recipient, i.lane, i.seq, strpos(i.recipients, ' ') > 0,
        octet_length(i.nonce) + octet_length(i.ciphertext)
    FROM incoming i
    CROSS JOIN LATERAL unnest(string_to_array(i.recipients, ' ')) AS r (recipient)
    WHERE ((SELECT writes FROM free))[i.mesh]
),
-- Ids are given in the order of the chain.
logged AS (
    INSERT INTO mesh.audit_log (
        mesh_id, event_type, actor_member_id, actor_display_name, payload, prev_hash, hash,
        created_at
    )
    SELECT
        l.mesh_id, l.event_type, l.actor_member_id, l.actor_display_name, l.payload::jsonb,
        l.prev_hash, l.hash, timestamp '1970-01-01' + l.created_at * interval '1 millisecond'
    FROM unnest(
        $30::int[], $31::text[], $32::text[], $33::text[], $34::text[], $35::text[], $36::text[],
        $37::text[], $38::bigint[]
    ) WITH ORDINALITY AS l (
        mesh, mesh_id, event_type, actor_member_id, actor_display_name, payload, prev_hash, hash,
        created_at, place
    )
    WHERE ((SELECT writes FROM free))[l.mesh]
    ORDER BY l.place
),
-- What is confirmed and was still waiting, if the message there is the one that is meant.
arrived AS MATERIALIZED (
    SELECT c.mesh_id, c.seq, d.shared, d.place AS delivery, e.place AS envelope
    FROM unnest($24::int[], $25::text[], $26::text[], $27::smallint[], $28::bigint[], $29::text[])
        AS c (mesh, mesh_id, recipient, lane, seq, id)
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place, d.shared
        FROM broker.delivery d
        WHERE d.mesh_id = c.mesh_id AND d.recipient = c.recipient
            AND d.lane = c.lane AND d.seq = c.seq
        LIMIT 1
    ) d
    CROSS JOIN LATERAL (
        SELECT e.ctid AS place
        FROM broker.envelope e
        WHERE e.mesh_id = c.mesh_id AND e.seq = c.seq AND e.id = c.id
        LIMIT 1
    ) e
    WHERE ((SELECT writes FROM free))[c.mesh]
),
removed AS (
    DELETE FROM broker.delivery WHERE ctid = ANY (ARRAY(SELECT delivery FROM arrived))
),
-- Envelopes that wait for nobody else. The look stops at the first other delivery it meets.
finished AS MATERIALIZED (
    SELECT a.envelope
    FROM arrived a
    GROUP BY a.mesh_id, a.seq, a.envelope, a.shared
    HAVING NOT a.shared OR (
        SELECT true
        FROM broker.delivery d
        WHERE d.mesh_id = a.mesh_id AND d.seq = a.seq AND d.shared
            AND d.ctid <> ALL (array_agg(a.delivery))
        LIMIT 1
    ) IS NULL
),
emptied AS (
    UPDATE broker.envelope
    SET nonce = '', ciphertext = '', delivered_at = (extract(epoch FROM now()) * 1000)::bigint
    WHERE ctid = ANY (ARRAY(SELECT envelope FROM finished))
)
SELECT f.held, k.places, k.originals, k.fingerprints
FROM fence f
CROSS JOIN LATERAL (
    SELECT
        array_agg(place ORDER BY place) AS places,
        array_agg(original ORDER BY place) AS originals,
        array_agg(original_fingerprint ORDER BY place) AS fingerprints
    FROM incoming
    WHERE original IS NOT NULL
) k
