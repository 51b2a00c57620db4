-- What `sise replay` has put into the tables. Its rows have the sources -32768 (of worker 0) and up.

CREATE TABLE replayed_captures (
    replayed_at timestamptz NOT NULL DEFAULT now(),
    file        text        NOT NULL, -- name, without its directory
    venue       text        NOT NULL,
    first_recv  timestamptz,          -- receipt of the oldest and newest row compared
    last_recv   timestamptz,
    frames      int8        NOT NULL,
    inserted    int8        NOT NULL, -- rows that the tables did not have
    known       int8        NOT NULL  -- rows that they had already
);
