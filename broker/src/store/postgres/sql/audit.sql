-- Ids are given in the order of the chain.
INSERT INTO mesh.audit_log (
    mesh_id, event_type, actor_member_id, actor_display_name, payload, prev_hash, hash, created_at
)
SELECT
    a.mesh_id, a.event_type, a.actor_member_id, a.actor_display_name, a.payload::jsonb,
    a.prev_hash, a.hash, timestamp '1970-01-01' + a.created_at * interval '1 millisecond'
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[]
) WITH ORDINALITY AS a (
    mesh_id, event_type, actor_member_id, actor_display_name, payload, prev_hash, hash, created_at,
    place
)
ORDER BY a.place
