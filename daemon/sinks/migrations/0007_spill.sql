-- Batches that were spilled to files while the database was away. A row is made when the cursors move over the batch, and
-- marked in the transaction that stores its records: so each is stored once, however often its file is replayed.
CREATE TABLE spilled_batches (
    batch         uuid        PRIMARY KEY,
    rings         int2[]      NOT NULL, -- one element for each range; the three arrays below likewise
    epochs        int8[]      NOT NULL,
    after_seqs    int8[]      NOT NULL, -- records behind this one are in the file and nowhere else
    through_seqs  int8[]      NOT NULL,
    records       int8        NOT NULL,
    first_recv    timestamptz NOT NULL,
    last_recv     timestamptz NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    stored_at     timestamptz,          -- NULL: the file waits
    lost_at       timestamptz           -- the file was found missing or damaged before its records were stored
);
CREATE INDEX spilled_batches_waiting ON spilled_batches (registered_at) WHERE stored_at IS NULL;
