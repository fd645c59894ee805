-- What each node of a cluster says of its Redis, so that one that does not reach it can tell whether
-- it is alone with that.

SET LOCAL lock_timeout = '5s';

-- Updated every second by every node.
CREATE TABLE broker.node_health (
    -- Its NODE_ID: a restarted process has the same row.
    node text COLLATE "C" PRIMARY KEY,
    reaches_redis boolean NOT NULL,
    said_at timestamptz NOT NULL
) WITH (fillfactor = 50);
