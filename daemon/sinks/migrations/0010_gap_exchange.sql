-- Which exchange of its market a hole is of: a stream of NXT is interrupted by itself.

-- nxt, sor; NULL: the main exchange, or not known (gaps of a ring or a spill file that was lost are of all of them).
ALTER TABLE feed_gaps ADD COLUMN exchange text;
