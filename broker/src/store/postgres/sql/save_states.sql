-- What members' next connections find again; each member once. What is not given stays as it is,
-- counts are added up. Whoever is no member any more has nothing to keep.
--
-- In two steps, for a row that is new and one that is not take what is missing from different
-- places. The table is the reference's, so its unique constraint has whatever name it has.
WITH given AS MATERIALIZED (
    SELECT s.*
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[],
        $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]
    ) AS s (
        mesh_id, member_id, groups, profile, visible, summary, name, messages_in, messages_out,
        tool_calls, errors, seen_at
    )
    CROSS JOIN LATERAL (
        SELECT FROM mesh.member m WHERE m.id = s.member_id AND m.mesh_id = s.mesh_id LIMIT 1
    ) m
),
changed AS (
    UPDATE mesh.peer_state p
    SET groups = coalesce(s.groups::jsonb, p.groups),
        profile = coalesce(s.profile::jsonb, p.profile),
        visible = coalesce(s.visible, p.visible),
        last_summary = coalesce(s.summary, p.last_summary),
        last_display_name = s.name,
        cumulative_stats = coalesce(p.cumulative_stats, '{}') || jsonb_build_object(
            'messagesIn', broker.total(p.cumulative_stats, 'messagesIn') + s.messages_in,
            'messagesOut', broker.total(p.cumulative_stats, 'messagesOut') + s.messages_out,
            'toolCalls', broker.total(p.cumulative_stats, 'toolCalls') + s.tool_calls,
            'errors', broker.total(p.cumulative_stats, 'errors') + s.errors
        ),
        last_seen_at = timestamp '1970-01-01' + s.seen_at * interval '1 millisecond',
        updated_at = now()
    FROM given s
    WHERE p.mesh_id = s.mesh_id AND p.member_id = s.member_id
    RETURNING p.mesh_id, p.member_id
)
INSERT INTO mesh.peer_state (
    id, mesh_id, member_id, groups, profile, visible, last_summary, last_display_name,
    cumulative_stats, last_seen_at, updated_at
)
SELECT
    replace(gen_random_uuid()::text, '-', ''), s.mesh_id, s.member_id,
    coalesce(s.groups::jsonb, '[]'), coalesce(s.profile::jsonb, '{}'), coalesce(s.visible, true),
    s.summary, s.name,
    jsonb_build_object(
        'messagesIn', s.messages_in, 'messagesOut', s.messages_out,
        'toolCalls', s.tool_calls, 'errors', s.errors
    ),
    timestamp '1970-01-01' + s.seen_at * interval '1 millisecond', now()
FROM given s
WHERE NOT EXISTS (
    SELECT FROM changed c WHERE c.mesh_id = s.mesh_id AND c.member_id = s.member_id
)
ON CONFLICT DO NOTHING
