-- The fences of a batch of several statements, and which of its keys are known: a mesh with one
-- must write nothing at all, and its first statement would not see the keys of its later ones.
--
-- $1, $2: as in commit.sql. $3..$7: every accept's mesh and key.
WITH fence AS MATERIALIZED (
    SELECT array_agg(o.held IS NOT NULL ORDER BY m.place) AS held
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS m (mesh_id, epoch, place)
    LEFT JOIN LATERAL (
        SELECT true AS held
        FROM broker.mesh_owner o
        WHERE o.mesh_id = m.mesh_id AND o.epoch = m.epoch
        FOR SHARE SKIP LOCKED
    ) o ON true
)
SELECT f.held, k.places, k.originals, k.fingerprints
FROM fence f
CROSS JOIN LATERAL (
    SELECT
        array_agg(a.place ORDER BY a.place) AS places,
        array_agg(k.message_id ORDER BY a.place) AS originals,
        array_agg(k.fingerprint ORDER BY a.place) AS fingerprints
    FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::text[])
        WITH ORDINALITY AS a (mesh, mesh_id, member_id, kind, key, place)
    CROSS JOIN LATERAL (
        SELECT k.message_id, k.fingerprint
        FROM broker.accepted k
        WHERE k.mesh_id = a.mesh_id AND k.member_id = a.member_id
            AND k.kind = a.kind AND k.key = a.key
        LIMIT 1
    ) k
    WHERE f.held[a.mesh]
) k
