# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Step 5 of 6 in the life of a tick: ring records become one Redis transaction.

Before: `ring_reader`, read by `daemon/sinks/publisher.py`. After: Redis; `redis_replies` reads its answers. A
transaction has a PUBLISH for each trade, order book and event, an XADD where its channel has a stream, the counters of
what it publishes, and the position it reaches in each ring: all of it happens or nothing, so a publisher that is killed
in between neither repeats nor skips. What was lost is told in front of the record behind it.
"""

import json

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from native_pipeline.counters cimport CountersBlock
from native_pipeline.json_messages cimport CHANNELS, IDS, JsonMessages, all_names
from native_pipeline.minute_counts cimport MinuteCounts
from native_pipeline.published_ring cimport LOSS_DROPPED, LOSS_FORGOTTEN, LOSS_REPLACED, PublishedRing
from native_pipeline.receipt_times cimport forget_receipts, note_receipt, observe_receipts
from native_pipeline.record cimport SISE_HISTOGRAMS, sise_record_header, sise_trade
from native_pipeline.resp cimport packed, put_bulk
from native_pipeline.ring_reader cimport RingReader
from native_pipeline.text_buffer cimport add_bytes, put_piece, room_for, set_piece
from native_pipeline.value_text cimport count_digits, put_literal, put_signed, put_unsigned

from native_pipeline.published_ring import LOSS_NAMES
from native_pipeline.records import MARKET_DATA


cdef enum:
    ENTRY_ROOM_BYTES = 1024       # of an XADD, beside the message
    FETCH_BYTES = 1 << 20
    FULL_BYTES = 1 << 26          # 200,000 trades: a batch of the longest texts must not take all memory
    TRIMMED_EVERY = 499           # entries of a batch; a prime, so that channels in turn all have theirs
    RINGS = 64                    # as many as there can be workers

# The keys of Redis that belong to the publisher, beside minute_counts.MINUTE_KEY.
CURSOR_KEY = "published:cursor"       # hash: ring-{n} -> {epoch}:{seq} of the last published record
LAST_KEY = "published:last"           # hash: {n}:{channel} -> seq of its last message, {n}:lost -> see LOST
LOST = "lost"                         # records up to this seq may be missing in any channel of the ring
COUNT_KEY = "published:count:"        # + channel: messages ever published
DROPPED_KEY = "published:dropped:"    # + channel: messages given up, counted
STREAM_KEY = "stream:"                # + channel:ring: the same messages, kept
GAP_CHANNEL = "system:gaps"           # what is missing, as a message
CHANNEL_PREFIXES = tuple(data.channel for data in MARKET_DATA)  # + market; in the order of enum Channel
assert CHANNEL_PREFIXES == ("ticker.", "orderbook.", "event.")

_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


def pack_command(*words) -> bytes:
    """Return one command as RESP; each word is a str, an int or bytes."""
    return packed(words)


cdef class PublishBatch:
    """Messages of records from any number of rings, waiting to be published together.

    streams: the channels that have one, or "all" in their place; stream_maxlen: entries that each keeps, roughly.

    The buffer grows as needed and is kept by clear(), so its size is bounded by the largest batch. One batch belongs
    to one thread.
    """

    def __cinit__(self, *, venues, markets, int64_t minute_counts_kept_s, streams=(), int64_t stream_maxlen=100_000):
        cdef int number
        self.json = JsonMessages(venues=venues, markets=markets)
        self.minutes = MinuteCounts(markets=markets, kept_s=minute_counts_kept_s)
        self.rings = []
        self.market_names = all_names(markets)
        for number in range(IDS):
            self.market_of[number] = self.market_names.index(self.market_names[number])
            self.channel_of[number] = -1
            for channel, prefix in enumerate(CHANNEL_PREFIXES):
                name = prefix + self.market_names[number]
                words = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$" % (len(name.encode()), name.encode())
                set_piece(&self.publish[<int>channel][number], words)
                set_piece(&self.streams[<int>channel][number], f"{STREAM_KEY}{name}:".encode())
                self.streamed[<int>channel][number] = "all" in streams or name in streams
        for channel, data in enumerate(MARKET_DATA):
            self.channel_of[<int>data.kind] = channel
        set_piece(&self.entry_head, b"*8\r\n$4\r\nXADD\r\n")
        set_piece(&self.plain_head, b"*5\r\n$4\r\nXADD\r\n")
        limit = b"$6\r\nMAXLEN\r\n$1\r\n~\r\n$%d\r\n%d\r\n" % (len(str(stream_maxlen)), stream_maxlen)
        set_piece(&self.entry_limit, limit)
        self.clear()

    def __dealloc__(self):
        free(self.buffer.data)
        free(self.received.recv_ns)

    # ---- records --------------------------------------------------------------------------------------

    def append_from(self, RingReader reader not None, int64_t max_records) -> int:
        """Encode the next records of *reader*, at most *max_records*; return how many it took, 0 if it has none.

        Fewer, or none, also if the messages have reached 64 MiB: publish the batch and clear it.
        reader: left uncommitted. Records that are no market data are taken without a message.
        Raises BufferError while a payload is being read, MemoryError if a buffer cannot grow: then the reader is ahead
        of the batch, which must not be published.
        """
        cdef int64_t taken
        cdef PublishedRing ring
        if self.exports:
            raise BufferError("the payload of this batch is still being read")
        ring = self.ring_of(reader)
        self.buffer.size = self.front_end  # drop what an earlier payload() added
        with nogil:
            taken = self.take(reader, ring, max_records)
        if taken < 0:
            raise MemoryError("no memory for another message")
        self.front_end = self.buffer.size
        return taken

    def skip_from(self, RingReader reader not None, int64_t max_records) -> int:
        """Give up the next records of *reader*, at most *max_records*; return how many: 0 if it has none.

        They are counted by channel (`dropped`), and told as a gap in front of the next record that is taken. Allowed
        while a payload is being read: the messages of the batch stay as they are.
        """
        cdef PublishedRing ring = self.ring_of(reader)
        cdef const sise_record_header* record
        cdef uint64_t expected
        cdef int64_t skipped = 0
        cdef int channel, market
        with nogil:
            while skipped < max_records:
                expected = reader.expected_seq
                record = reader.next()
                if record == NULL:
                    if reader.fetch(FETCH_BYTES) == 0:
                        break
                    continue
                ring.look_for_loss(record, expected, reader.lapped_records + reader.corrupt_records)
                channel = self.channel_of[record.kind]
                market = self.market_of[record.market]
                ring.note_skipped(record.seq, channel, market)
                if channel >= 0:
                    self.dropped_counts[channel][market] += 1
                ring.seen_seq = record.seq
                skipped += 1
        return skipped

    def resume(self, RingReader reader not None, uint64_t seq, last, *, replaced_seq=None) -> None:
        """Take over what Redis says about the ring of *reader*: everything up to *seq* is published, 0: unknown.

        last: channel -> seq of its last message, and LOST. replaced_seq: where the publishing of an earlier file of
        this ring ended.
        """
        cdef PublishedRing ring = self.ring_of(reader)
        cdef int channel, market
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                ring.channel_last[channel][market] = last.get(self.channel_name(channel, market), 0)
        ring.floor_seq = last.get(LOST, 0)
        ring.seen_seq = seq
        if ring.has_gap:  # records were given up before Redis could be asked
            if 0 < seq < ring.gap_after:
                ring.widen_gap(seq, ring.gap_through, ring.gap_after - seq, LOSS_FORGOTTEN)
            ring.seen_seq = max(seq, ring.gap_through)
        if replaced_seq is not None and replaced_seq < reader.header.first_seq:
            ring.widen_gap(replaced_seq, reader.header.first_seq - 1, -1, LOSS_REPLACED)

    cdef PublishedRing ring_of(self, RingReader reader):
        cdef PublishedRing ring
        cdef Py_ssize_t i
        for i in range(len(self.rings)):
            ring = self.rings[i]
            if ring.ring == reader.header.ring:
                if ring.epoch == reader.header.epoch or ring.in_batch:
                    return ring
                del self.rings[i]  # another file of the same number
                break
        if len(self.rings) == RINGS:
            raise ValueError(f"at most {RINGS} rings in one batch")
        ring = PublishedRing(
            reader.header.ring, reader.header.epoch, reader.lapped_records + reader.corrupt_records
        )
        self.rings.append(ring)
        return ring

    cdef int64_t take(self, RingReader reader, PublishedRing ring, int64_t max_records) noexcept nogil:
        cdef const sise_record_header* record
        cdef uint64_t expected
        cdef int64_t taken = 0
        while taken < max_records and self.buffer.size < FULL_BYTES:
            expected = reader.expected_seq
            record = reader.next()
            if record == NULL:
                if reader.fetch(FETCH_BYTES) == 0:
                    break
                continue
            ring.look_for_loss(record, expected, reader.lapped_records + reader.corrupt_records)
            if ring.has_gap and self.tell_gap(ring) < 0:
                return -1
            if not ring.in_batch:
                ring.in_batch = True
                ring.first_seq = record.seq
            ring.last_seq = record.seq
            ring.seen_seq = record.seq
            ring.batch_records += 1
            taken += 1
            if self.channel_of[record.kind] >= 0 and self.append(record, ring) < 0:
                return -1
        self.records += taken
        return taken

    cdef int append(self, const sise_record_header* record, PublishedRing ring) noexcept nogil:
        """Append the commands of one record of market data; 0, or -1 if there is no memory."""
        cdef char* at = room_for(&self.buffer, 2 * self.json.message_room(record) + ENTRY_ROOM_BYTES)
        cdef char* length_at
        cdef char* message
        cdef size_t size
        cdef int channel = self.channel_of[record.kind]
        cdef int market = self.market_of[record.market]
        cdef int digits
        if at == NULL:
            return -1
        length_at = put_piece(at, &self.publish[channel][record.market])
        message = length_at + 5  # room for a length of three digits and the line end: moved if it has others
        at = self.json.put(message, record, channel, ring.ring, ring.prev_seq(channel, market))
        size = at - message
        digits = count_digits(size)
        if digits != 3:
            memmove(message + digits - 3, message, size)
            message += digits - 3
        put_literal(put_unsigned(length_at, size), b"\r\n")
        at = put_literal(message + size, b"\r\n")
        self.front_commands += 1
        if self.streamed[channel][market]:
            at = self.put_entry(at, message, size, ring, record.seq, channel, market)
        self.buffer.size = at - self.buffer.data
        self.messages += 1
        self.channel_counts[channel][market] += 1
        ring.batch_messages[channel][market] += 1
        ring.note_published(channel, market, record.seq)
        # all market data begin alike
        if self.minutes.note(record, (<const sise_trade*>record).symbol, channel) < 0:
            return -1
        return note_receipt(&self.received, record.recv_ns)

    cdef char* put_entry(self, char* at, const char* message, size_t size, PublishedRing ring, uint64_t seq,
                         int channel, int market) noexcept nogil:
        """Write the XADD of one message. Its id is the number of the record: adding it twice is refused by Redis."""
        cdef char text[128]
        cdef char* end = put_signed(put_piece(text, &self.streams[channel][market]), ring.ring)
        # Trimming costs the server a fifth of the command: once for each stream and batch is enough. It removes what is
        # too much in steps of 10,000 entries, so that a longer batch has to ask more often.
        if ring.touched[channel][market] and self.entries % TRIMMED_EVERY:
            at = put_bulk(put_piece(at, &self.plain_head), text, end - text)
        else:
            at = put_bulk(put_piece(at, &self.entry_head), text, end - text)
            at = put_piece(at, &self.entry_limit)
        end = put_literal(put_unsigned(text, seq), b"-0")
        at = put_bulk(at, text, end - text)
        at = put_bulk(put_literal(at, b"$7\r\nmessage\r\n"), message, size)
        self.front_commands += 1
        self.entries += 1
        return at

    # ---- losses ---------------------------------------------------------------------------------------

    cdef int tell_gap(self, PublishedRing ring) noexcept nogil:
        with gil:
            try:
                return self.add_gap(ring)
            except MemoryError:
                return -1

    cdef int add_gap(self, PublishedRing ring) except -1:
        """Tell the gap of *ring* in front of its next record, with the counts by channel if they are known."""
        cdef int channel, market
        missing = {}
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                if ring.gap_missing[channel][market]:
                    missing[self.channel_name(channel, market)] = ring.gap_missing[channel][market]
        records = ring.gap_records if ring.gap_records >= 0 else None
        self.add_notice(
            ring, ring.gap_after, ring.gap_through, records, LOSS_NAMES[ring.gap_reason],
            missing if ring.gap_is_counted else None,
        )
        for name, count in missing.items():
            self.add(("INCRBY", DROPPED_KEY + name, count))
        ring.close_gap()
        return 0

    cdef int add_notice(self, PublishedRing ring, uint64_t after, uint64_t through, records, reason,
                        missing) except -1:
        """Say what is missing: a message, and an entry in each stream of the ring that it concerns."""
        cdef int channel, market
        notice = {
            "type": "gap", "source": ring.ring, "after_seq": after, "through_seq": through, "records": records,
            "reason": reason,
        }
        text = json.dumps({**notice, "missing": missing}, separators=(",", ":"))
        self.add(("PUBLISH", GAP_CHANNEL, text))
        limit = self.entry_limit.text[:self.entry_limit.size].split(b"\r\n")[1::2]
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                if not self.streamed[channel][market] or market != self.market_of[market]:
                    continue
                name = self.channel_name(channel, market)
                counted = None if missing is None else missing.get(name, 0)
                if counted == 0 or not (counted or ring.channel_last[channel][market]):
                    continue  # nothing of this channel is missing, or the ring never had such a message
                text = json.dumps({**notice, "missing": counted}, separators=(",", ":"))
                self.add(("XADD", f"{STREAM_KEY}{name}:{ring.ring}", *limit, f"{after}-1", "gap", text))
                self.gap_entries += 1
        return 0

    def restore_gap(self, RingReader reader not None, uint64_t after, uint64_t through, int64_t records,
                    missing) -> None:
        """Tell in front of the next record of *reader* what a predecessor has given up: `gaps` says what it is.

        To be followed by resume(). missing: by channel, None: not known.
        """
        cdef PublishedRing ring = self.ring_of(reader)
        cdef int channel, market
        ring.has_gap = True
        ring.gap_after = after
        ring.gap_through = through
        ring.gap_reason = LOSS_DROPPED
        ring.gap_records = records
        ring.gap_is_counted = missing is not None
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                if market == self.market_of[market]:
                    ring.gap_missing[channel][market] = (missing or {}).get(self.channel_name(channel, market), 0)

    def tell_forgotten(self, RingReader reader not None, uint64_t seq) -> None:
        """Redis knows the ring of *reader* up to *seq* only, although more was published before this batch: say so.

        What subscribers had is not repeated. The notice comes first in the transaction; the messages stay as they are.
        """
        cdef PublishedRing ring = self.ring_of(reader)
        cdef bytes notice
        cdef size_t end = self.front_end, first = len(_MULTI), size
        if self.exports:
            raise BufferError("the payload of this batch is still being read")
        if not ring.in_batch or ring.first_seq <= seq + 1:
            return
        self.buffer.size = end
        self.add_notice(ring, seq, ring.first_seq - 1, ring.first_seq - 1 - seq, LOSS_NAMES[LOSS_FORGOTTEN], None)
        notice = self.buffer.data[end:self.buffer.size]
        size = len(notice)
        memmove(self.buffer.data + first + size, self.buffer.data + first, end - first)
        memcpy(self.buffer.data + first, <const char*>notice, size)
        self.front_end = self.buffer.size

    cdef int add(self, tuple words) except -1:
        """Append one command in front."""
        add_bytes(&self.buffer, packed(words))
        self.front_commands += 1
        return 0

    cdef str channel_name(self, int channel, int market):
        return CHANNEL_PREFIXES[channel] + self.market_names[market]

    # ---- counts, cursor, payload ----------------------------------------------------------------------

    cdef int add_counts(self) except -1:
        for name, count in self.channel_messages.items():
            add_bytes(&self.buffer, packed(("INCRBY", COUNT_KEY + name, count)))
            self.commands += 1
        self.commands += self.minutes.add_commands(&self.buffer)
        return 0

    cdef int add_cursor(self) except -1:
        """Where the rings are published to, and the last message of each channel that is in the batch."""
        cdef PublishedRing ring
        cdef int channel, market
        cursor, last = [], []
        for ring in self.rings:
            if not ring.in_batch:
                continue
            cursor += [f"ring-{ring.ring}", f"{ring.epoch}:{ring.last_seq}"]
            for channel in range(<int>CHANNELS):
                for market in range(IDS):
                    if ring.touched[channel][market]:
                        last += [
                            f"{ring.ring}:{self.channel_name(channel, market)}", ring.channel_last[channel][market]
                        ]
            if ring.floor_moved:
                last += [f"{ring.ring}:{LOST}", ring.floor_seq]
        for key, words in ((LAST_KEY, last), (CURSOR_KEY, cursor)):
            if words:
                add_bytes(&self.buffer, packed(("HSET", key, *words)))
                self.commands += 1
        return 0

    def payload(self) -> memoryview:
        """Return the whole transaction as RESP, without copying it; asking again gives the same bytes.

        Behind EXEC the cursor is watched again: the next transaction of this connection fails if anybody else has
        moved it by then. The replies are one for MULTI, one for each of `commands`, EXEC's, and one for WATCH: see
        TransactionReplies. The batch refuses to change while the memoryview is alive: release() it.
        """
        if not self.exports:
            self.buffer.size = self.front_end
            self.commands = self.front_commands
            self.add_counts()
            self.add_cursor()
            add_bytes(&self.buffer, _EXEC)
            add_bytes(&self.buffer, packed(("WATCH", CURSOR_KEY)))
        return memoryview(self)

    def keys_of(self, commands) -> list:
        """Return the first word behind the name of each of *commands* of the last payload; 0: the one behind MULTI."""
        wanted = sorted(commands)
        cdef bytes text = self.buffer.data[:self.buffer.size]
        cdef Py_ssize_t at = len(_MULTI), end
        cdef int64_t number = 0, word, words
        found = []
        for index in wanted:
            while True:
                end = text.index(b"\r\n", at)
                words = int(text[at + 1:end])
                at = end + 2
                for word in range(words):
                    end = text.index(b"\r\n", at)
                    size = int(text[at + 1:end])
                    if word == 1 and number == index:
                        found.append(text[end + 2:end + 2 + size].decode(errors="replace"))
                    at = end + size + 4
                number += 1
                if number > index:
                    break
        return found

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.buffer.data, self.buffer.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    @property
    def progress(self) -> dict:
        """For each ring in the batch: (epoch, seq of the first record, seq of the last record)."""
        cdef PublishedRing ring
        return {ring.ring: (ring.epoch, ring.first_seq, ring.last_seq) for ring in self.rings if ring.in_batch}

    @property
    def parts(self) -> dict:
        """For each ring in the batch: (epoch, first seq, last seq, messages by channel; None: records are missing)."""
        cdef PublishedRing ring
        return {
            ring.ring: (
                ring.epoch, ring.first_seq, ring.last_seq,
                self.by_channel(ring.batch_messages)
                if <int64_t>(ring.last_seq - ring.first_seq) < ring.batch_records else None,
            )
            for ring in self.rings if ring.in_batch
        }

    @property
    def gaps(self) -> dict:
        """For each ring with losses that are to be told: (epoch, after, through, records, missing by channel or None).

        records is -1 if it is not known.
        """
        cdef PublishedRing ring
        return {
            ring.ring: (
                ring.epoch, ring.gap_after, ring.gap_through, ring.gap_records,
                self.by_channel(ring.gap_missing) if ring.gap_is_counted else None,
            )
            for ring in self.rings if ring.has_gap
        }

    cdef dict by_channel(self, int64_t (*counts)[IDS]):
        cdef int channel, market
        found = {}
        for channel in range(<int>CHANNELS):
            for market in range(IDS):
                if counts[channel][market]:
                    name = self.channel_name(channel, market)
                    found[name] = found.get(name, 0) + counts[channel][market]
        return found

    @property
    def unread(self) -> int:
        """Records that were overwritten while no publisher lived, so that no reader could count them."""
        cdef PublishedRing ring
        cdef int64_t found = 0
        for ring in self.rings:
            found += ring.unread
        return found

    @property
    def channel_messages(self) -> dict:
        """Messages of the batch by channel."""
        cdef int channel, market
        return {
            self.channel_name(channel, market): self.channel_counts[channel][market]
            for channel in range(<int>CHANNELS) for market in range(IDS) if self.channel_counts[channel][market]
        }

    @property
    def dropped(self) -> dict:
        """Messages that skip_from() gave up, by channel, since the batch was made."""
        cdef int channel, market
        return {
            self.channel_name(channel, market): self.dropped_counts[channel][market]
            for channel in range(<int>CHANNELS) for market in range(IDS) if self.dropped_counts[channel][market]
        }

    def observe_ages(self, CountersBlock counters not None, int histogram, int64_t now_ns) -> None:
        """Count, in *histogram*, how old the record of every message was at *now_ns*."""
        if not 0 <= histogram < SISE_HISTOGRAMS:
            raise ValueError(f"histogram: expected 0 to {SISE_HISTOGRAMS - 1}, found {histogram}")
        with nogil:
            observe_receipts(&self.received, counters, histogram, now_ns)

    def clear(self) -> None:
        """Forget every message; the buffers keep their memory. Raises BufferError while a payload is being read."""
        cdef PublishedRing ring
        if self.exports:
            raise BufferError("the payload of this batch is still being read")
        self.buffer.size = 0
        add_bytes(&self.buffer, _MULTI)
        self.front_end = self.buffer.size
        self.front_commands = 0
        self.messages = 0
        self.records = 0
        self.commands = 0
        self.entries = 0
        self.gap_entries = 0
        for ring in self.rings:
            ring.forget_batch()
        self.minutes.clear()
        memset(self.channel_counts, 0, sizeof(self.channel_counts))
        forget_receipts(&self.received)
