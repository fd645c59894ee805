-- Which cluster this store is of. Nodes carry it into Redis, so that clusters that share one do not
-- meet.

SET LOCAL lock_timeout = '5s';

-- One row.
CREATE TABLE broker.cluster (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- 32 hexadecimal digits.
    id text NOT NULL
);

INSERT INTO broker.cluster (id) VALUES (replace(gen_random_uuid()::text, '-', ''));
