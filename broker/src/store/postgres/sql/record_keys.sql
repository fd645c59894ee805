-- The first member to prove a key keeps it.
INSERT INTO broker.session_key (mesh_id, key, member_id)
SELECT k.mesh_id, k.key, k.member_id
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (mesh_id, key, member_id)
ON CONFLICT DO NOTHING
