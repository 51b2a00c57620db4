"""Step 1 of 6 in the life of a tick: a frame, from picows' read buffer to the parser, without becoming an object.

Before: the socket (picows, opened by `daemon/ingest/connector.py`). After: `parse_<venue>`.

Stamps the receive time once per network read, joins fragmented messages, hands each whole message to the parser and
makes the records visible once per network read. Control messages go to Python. When the ring runs short of room the
socket is paused, so that the venue's TCP window fills up instead of our memory; what the read buffer still held is
kept aside, in order, until there is room. The connection must be opened with `enable_auto_pong=False`: picows would
swallow a PING that ends a read, and with it the signal to publish.

With a raw ring, each message that held data is also kept there as it came, for the recorder. That is best effort: what
finds no room is counted and left out. Control messages are not kept, because they may hold keys.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove
from picows.picows cimport WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from native_pipeline.counters cimport CountersBlock
from native_pipeline.frame_parser cimport PARSE_CONTROL, PARSE_RING_FULL, FrameParser
from native_pipeline.record cimport REASON_TOO_LONG, SISE_RAW, sise_raw
from native_pipeline.ring_writer cimport RingWriter

from native_pipeline.counters import COUNTER_IDS

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int CLOCK_REALTIME

cdef int FRAMES_RECEIVED = COUNTER_IDS["frames_received"]
cdef int BYTES_RECEIVED = COUNTER_IDS["bytes_received"]
cdef int RECORDS_RECEIVED = COUNTER_IDS["records_received"]
cdef int RECORDS_QUARANTINED = COUNTER_IDS["records_quarantined"]
cdef int CONTROL_FRAMES = COUNTER_IDS["control_frames"]
cdef int SOCKET_PAUSES = COUNTER_IDS["socket_pauses"]
cdef int RING_FULL_WAITS = COUNTER_IDS["ring_full_waits"]
cdef int DUPLICATES_DROPPED = COUNTER_IDS["duplicates_dropped"]
cdef int LAST_DATA_NS = COUNTER_IDS["last_data_ns"]
cdef int RAW_FRAMES = COUNTER_IDS["raw_frames"]
cdef int RAW_FRAMES_DROPPED = COUNTER_IDS["raw_frames_dropped"]

cdef enum:
    AGE_HISTOGRAM = 0     # of the worker: socket read -> visible in the ring
    # Control messages handed to Python in one turn of the event loop: at 30 to 110 us each, 500 of them took 58 ms.
    MOST_CONTROL = 200
    KEEP_BYTES = 1 << 16  # an assembly buffer that grew beyond this is freed after use
    # The header of an unfragmented frame from a server, RFC 6455 section 5.2: opcode with FIN, then the length.
    WHOLE_TEXT = 0x81
    WHOLE_BINARY = 0x82
    LENGTH_16 = 126       # two more bytes hold the length; greater: eight
    COVER_BYTES = 1 << 16  # behind a 16-bit length: frames that were taken are put under one header up to here


cdef inline int64_t wall_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef enum MessageForm:
    BINARY
    TEXT
    TOO_LONG  # cut at the bound of reassembly: goes to quarantine


cdef struct Held:
    # a message that found the ring full: this header, then its bytes
    int64_t recv_ns
    uint64_t size
    uint64_t form


cdef class _Bytes:
    """A growable buffer; `grow` returns -1 when there is no memory."""
    cdef char* data
    cdef size_t size
    cdef size_t capacity

    def __dealloc__(self):
        free(self.data)

    cdef int append(self, const void* source, size_t count) noexcept nogil:
        cdef size_t capacity = self.capacity
        cdef char* grown
        if self.size + count > capacity:
            capacity = max(capacity * 2, self.size + count)
            grown = <char*>realloc(self.data, capacity)
            if grown is NULL:
                return -1
            self.data = grown
            self.capacity = capacity
        memcpy(self.data + self.size, source, count)
        self.size += count
        return 0

    cdef void clear(self) noexcept nogil:
        self.size = 0
        if self.capacity > KEEP_BYTES:
            free(self.data)
            self.data = NULL
            self.capacity = 0


cdef class FrameListener(WSListener):
    """One connection's listener.

    on_control: called with the bytes of each control message. on_closed: called once, when the socket is gone.
    max_message_bytes: bound of a fragmented message; a longer one is quarantined (its first bytes are kept).
    raw: where messages are kept as they came, for the recorder; None: nowhere.
    """

    cdef RingWriter ring
    cdef RingWriter raw
    cdef FrameParser parser
    cdef CountersBlock counters
    cdef object on_control
    cdef object on_closed
    cdef size_t max_message_bytes
    cdef uint64_t reserve_bytes   # the socket is paused below this much room, resumed above twice as much
    cdef int64_t recv_ns          # of the network read under way, 0 between reads
    cdef _Bytes assembly          # fragments of the message under way
    cdef bint assembling
    cdef bint assembly_is_text
    cdef bint assembly_too_long
    cdef _Bytes held              # messages that found the ring full, in order
    cdef uint64_t read_frames
    cdef uint64_t read_bytes
    cdef uint64_t read_control
    cdef uint64_t read_raw
    cdef uint64_t read_raw_dropped
    cdef object transport
    cdef const char* taken_from   # read buffer: what picows still delivers from here ...
    cdef const char* taken_until  # ... to here was taken already; NULL outside a read
    cdef readonly int64_t last_frame_ns   # wall clock of the newest frame of any kind
    cdef readonly int64_t last_data_ns    # wall clock of the newest frame that was data
    cdef readonly uint64_t frames
    cdef readonly bint paused
    cdef readonly bint close_received   # the venue closed in order: nothing of it is on its way any more

    def __init__(self, RingWriter ring not None, FrameParser parser not None, CountersBlock counters not None,
                 on_control, on_closed, *, size_t max_message_bytes=16 << 20, RingWriter raw=None):
        self.ring = ring
        self.raw = raw
        self.parser = parser
        self.counters = counters
        self.on_control = on_control
        self.on_closed = on_closed
        self.max_message_bytes = max_message_bytes
        self.reserve_bytes = ring.capacity >> 3
        self.assembly = _Bytes()
        self.held = _Bytes()

    cpdef on_ws_connected(self, WSTransport transport):
        self.transport = transport

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        if self.taken_from < frame.payload_ptr <= self.taken_until:   # an empty one ends where it begins
            if frame.last_in_buffer:
                self._end_read()
            return
        if self.recv_ns == 0:
            self.recv_ns = wall_ns()
        self.read_frames += 1
        self.read_bytes += frame.payload_size
        if frame.msg_type == WSMsgType.TEXT or frame.msg_type == WSMsgType.BINARY:
            if frame.fin:
                self._take_message(frame.payload_ptr, frame.payload_size,
                                   TEXT if frame.msg_type == WSMsgType.TEXT else BINARY)
                if frame.tail_size and self.held.size == 0:
                    self._take_following(frame.payload_ptr + frame.payload_size, frame.tail_size)
            else:
                self.assembling = True
                self.assembly_is_text = frame.msg_type == WSMsgType.TEXT
                self.assembly_too_long = False
                self.assembly.clear()
                self._assemble(frame)
        elif frame.msg_type == WSMsgType.CONTINUATION:
            if self.assembling:
                self._assemble(frame)
                if frame.fin:
                    self._take_assembled()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.close_received = True
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code() or WSCloseCode.OK)  # no code: 0 must not be sent
            transport.disconnect()
        if frame.last_in_buffer:
            self._end_read()

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.transport = None    # before _end_read: there is nothing left to pause
        self.assembling = False  # a message cut by the disconnection is not data
        self.assembly.clear()
        self._end_read()
        self.on_closed()

    cdef void _take_following(self, char* at, Py_ssize_t size) noexcept nogil:
        """Take the whole data messages that lie behind a frame in the read buffer, in one loop.

        picows delivers one frame after the other, with an object each; that costs as much as half the parsing. It has
        decoded the frame behind the present one already, so that one will still be delivered; the others are put under
        one header, so that picows delivers them as one. Whatever it delivers of them is left alone by on_ws_frame. The
        first frame that is no whole data message ends the loop: picows delivers it as ever.
        """
        cdef char* begin = at
        cdef char* end = at + size
        cdef char* cover = NULL
        cdef Py_ssize_t header, length, covered
        cdef unsigned char opcode
        while end - at >= 2:
            opcode = <unsigned char>at[0]
            length = <unsigned char>at[1]
            header = 2
            if length == LENGTH_16:
                if end - at < 4:
                    break
                length = <Py_ssize_t>(<unsigned char>at[2]) << 8 | <unsigned char>at[3]
                header = 4
                if length < LENGTH_16:
                    break
            elif length > LENGTH_16:   # eight bytes of length, or a mask: not for here
                break
            if (opcode != WHOLE_TEXT and opcode != WHOLE_BINARY) or end - at < header + length:
                break
            if cover is not NULL and at + header + length - cover >= COVER_BYTES:
                break
            if self._parse(at + header, length, TEXT if opcode == WHOLE_TEXT else BINARY, self.recv_ns) < 0:
                break   # control, or no room: nothing was done
            if self.raw is not None:
                self._keep_raw(at + header, length, TEXT if opcode == WHOLE_TEXT else BINARY, self.recv_ns)
            self.read_frames += 1
            self.read_bytes += length
            if cover is NULL and at != begin:
                cover = at
            at += header + length
        if at == begin:
            return
        self.last_data_ns = self.recv_ns
        self.taken_from = begin
        self.taken_until = at
        if cover is NULL:
            return
        covered = at - cover
        if covered - 2 < LENGTH_16:
            cover[0] = <char>WHOLE_BINARY
            cover[1] = <char>(covered - 2)
        elif covered - 4 >= LENGTH_16:   # a length of neither form is not to be: then they are delivered one by one
            cover[0] = <char>WHOLE_BINARY
            cover[1] = <char>LENGTH_16
            cover[2] = <char>(covered - 4 >> 8)
            cover[3] = <char>(covered - 4 & 0xff)

    cdef _assemble(self, WSFrame frame):
        cdef size_t room = self.max_message_bytes - self.assembly.size
        cdef size_t count = min(<size_t>frame.payload_size, room)
        if count < <size_t>frame.payload_size:
            self.assembly_too_long = True
        if self.assembly.append(frame.payload_ptr, count) < 0:
            raise MemoryError

    cdef _take_assembled(self):
        cdef _Bytes assembly = self.assembly
        self.assembling = False
        if self.assembly_too_long:
            self._take_message(assembly.data, assembly.size, TOO_LONG)
        else:
            self._take_message(assembly.data, assembly.size, TEXT if self.assembly_is_text else BINARY)
        assembly.clear()

    cdef _take_message(self, const char* data, Py_ssize_t size, MessageForm form):
        """One whole message: to the ring, or to Python, or aside if the ring is full or Python has had its share."""
        cdef int result
        cdef Held held
        if self.held.size == 0:
            result = self._parse(data, size, form, self.recv_ns)
            if result >= 0:
                self.last_data_ns = self.recv_ns
                if self.raw is not None:
                    self._keep_raw(data, size, form, self.recv_ns)
                return
            if result == PARSE_CONTROL and self.read_control < MOST_CONTROL:
                self.read_control += 1
                self.on_control(PyBytes_FromStringAndSize(data, size))
                return
            if result == PARSE_RING_FULL:
                self.counters.add(RING_FULL_WAITS, 1)
        held.recv_ns = self.recv_ns
        held.size = size
        held.form = form
        if self.held.append(&held, sizeof(held)) < 0 or self.held.append(data, size) < 0:
            raise MemoryError

    cdef inline int _parse(self, const char* data, Py_ssize_t size, MessageForm form, int64_t recv_ns) noexcept nogil:
        if form != TOO_LONG:
            return self.parser.parse_frame(self.ring, data, size, form == TEXT, recv_ns)
        if self.ring.append_quarantine(REASON_TOO_LONG, 0, self.parser.venue, 0, recv_ns, b"", 0, data, size) < 0:
            return PARSE_RING_FULL
        self.parser.quarantined += 1
        return 1

    cdef void _keep_raw(self, const char* data, Py_ssize_t size, MessageForm form, int64_t recv_ns) noexcept nogil:
        """Append the message to the raw ring, or count it as dropped: if it is cut, or too long for the ring."""
        cdef sise_raw* record = NULL
        if form != TOO_LONG and <uint64_t>size < self.raw.capacity >> 3:
            record = <sise_raw*>self.raw.reserve(<uint32_t>(sizeof(sise_raw) + size))
        if record is NULL:
            self.read_raw_dropped += 1
            return
        record.header.kind = SISE_RAW
        record.header.venue = self.parser.venue
        record.header.connection = self.parser.connection
        record.header.recv_ns = recv_ns
        record.frame_bytes = <uint32_t>size
        record.is_text = form == TEXT
        record.is_redundant = self.parser.is_redundant
        record.reserved[0] = record.reserved[1] = 0
        memcpy(<char*>record + sizeof(sise_raw), data, size)
        self.raw._commit(<char*>record)
        self.read_raw += 1

    cdef _end_read(self):
        """Behind the last frame of a network read: publish, count, pause the socket if the ring is short of room."""
        self.taken_from = self.taken_until = NULL
        self.ring.publish_head()
        if self.raw is not None:
            self.raw.publish_head()
        if self.recv_ns:
            if self.parser.records:
                self.counters.observe(AGE_HISTOGRAM, wall_ns() - self.recv_ns, self.parser.records)
            self.last_frame_ns = self.recv_ns
            self.recv_ns = 0
        self.frames += self.read_frames
        self._count()
        if not self.paused and (self.held.size or self.ring.free_bytes() < self.reserve_bytes):
            self.paused = True
            self.counters.add(SOCKET_PAUSES, 1)
            if self.transport is not None:
                self.transport.underlying_transport.pause_reading()

    cdef void _count(self) noexcept:
        self.counters.add(FRAMES_RECEIVED, self.read_frames)
        self.counters.add(BYTES_RECEIVED, self.read_bytes)
        self.counters.add(CONTROL_FRAMES, self.read_control)
        self.counters.add(RECORDS_RECEIVED, self.parser.records)
        self.counters.add(RECORDS_QUARANTINED, self.parser.quarantined)
        if self.last_data_ns:
            self.counters.store(LAST_DATA_NS, <uint64_t>self.last_data_ns)
        if self.read_raw or self.read_raw_dropped:
            self.counters.add(RAW_FRAMES, self.read_raw)
            self.counters.add(RAW_FRAMES_DROPPED, self.read_raw_dropped)
            self.read_raw = 0
            self.read_raw_dropped = 0
        if self.parser.duplicates:
            self.counters.add(DUPLICATES_DROPPED, self.parser.duplicates)
            self.parser.duplicates = 0
        self.parser.records = 0
        self.parser.quarantined = 0
        self.read_frames = 0
        self.read_bytes = 0
        self.read_control = 0

    @property
    def held_bytes(self) -> int:
        """Size of the messages that wait for room in the ring; to be drained by `try_resume`, also after a close."""
        return self.held.size

    def try_resume(self) -> bool:
        """Append what was held and read on, if there is room; True if the socket is not paused (any more).

        To be called every few milliseconds while `paused`, also after the connection has closed.
        """
        cdef size_t done = 0
        cdef Held held
        cdef const char* data
        cdef int result
        if not self.paused:
            return True
        try:
            while done < self.held.size:
                memcpy(&held, self.held.data + done, sizeof(held))
                data = self.held.data + done + sizeof(held)
                result = self._parse(data, held.size, <MessageForm>held.form, held.recv_ns)
                if result == PARSE_RING_FULL or (result == PARSE_CONTROL and self.read_control == MOST_CONTROL):
                    break
                done += sizeof(held) + held.size
                if result == PARSE_CONTROL:
                    self.read_control += 1
                    self.on_control(PyBytes_FromStringAndSize(data, held.size))
                    continue
                self.last_data_ns = max(self.last_data_ns, held.recv_ns)
                if self.raw is not None:
                    self._keep_raw(data, held.size, <MessageForm>held.form, held.recv_ns)
        finally:  # on_control may raise: what is done is done once
            if done:
                memmove(self.held.data, self.held.data + done, self.held.size - done)
                self.held.size -= done
                self.ring.publish_head()
                if self.raw is not None:
                    self.raw.publish_head()
                self._count()
        if self.held.size or self.ring.free_bytes() < 2 * self.reserve_bytes:
            return False
        self.held.clear()
        self.paused = False
        if self.transport is not None and not self.transport.underlying_transport.is_closing():
            self.transport.underlying_transport.resume_reading()
        return True
