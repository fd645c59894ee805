-- The name of the topic that a message was sent to.

SET LOCAL lock_timeout = '5s';

ALTER TABLE broker.envelope ADD COLUMN topic text;
