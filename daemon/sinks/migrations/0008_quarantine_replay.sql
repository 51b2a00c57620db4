-- What lies in quarantine can be stored after all: frames, once a parser understands them; rows that the database
-- refused, once it takes them.

ALTER TABLE quarantine
    ADD COLUMN kind          text,        -- of a row that the database refused, NULL: a frame that no parser understood
    ADD COLUMN market        text,        -- of such a row
    ADD COLUMN symbol        text,        -- of such a row
    ADD COLUMN replayed_at   timestamptz, -- when it was stored after all; NULL: it still lies here
    ADD COLUMN replayed_rows int4;        -- what it gave then; a frame of what was stored already gives nothing

-- An ID on the command line is source and seq.
CREATE INDEX quarantine_source_seq ON quarantine (source, seq);
-- The monitor counts what is replayed.
CREATE INDEX quarantine_replayed_at ON quarantine (replayed_at) WHERE replayed_at IS NOT NULL;
