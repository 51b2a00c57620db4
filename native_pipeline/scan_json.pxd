# Part of step 2 of 6 in the life of a tick: reading JSON text without ever leaving the frame.
#
# RFC 8259, in one walk over the text, without building anything: json_open() finds every quote of the frame at once,
# then a cursor goes from token to token. Two liberties: bytes from 0x80 on are taken as they come (a broken character
# in a name must not cost the price beside it), and nesting ends at JSON_MAX_DEPTH.
#
# Escapes: a text that has any is read from a copy in which every escape that stands for a plain character ("\u002B",
# "\/") has been replaced by it. So two strings are equal if their bytes are; what remains escaped (quote, backslash,
# control characters, what is not ASCII) is never part of a number, a symbol or a key of a venue.
#
# Nothing raises; nothing but json_make_room() allocates. Functions return 0 (False, NULL) for "not JSON", and the
# cursor is then of no further use. All positions are inside [floor, end].

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from native_pipeline.scan cimport SCAN_MAX_SCALE, SISE_FIND_SLACK, scan_decimal, sise_find


cdef enum:
    JSON_MAX_DEPTH = 64
    JSON_MAX_BYTES = 1 << 20    # a text beyond this is no market data: a ring keeps no more of it in quarantine
    JSON_FIRST_ROOM = 4096


# What a parser owns: where the quotes of the frame under way are, and room for a copy of it.
cdef struct JsonRoom:
    uint32_t* quotes
    char* copy
    size_t bytes          # of the longest text that fits


# Where a walk stands. Only the functions below change one.
cdef struct JsonCursor:
    const char* floor          # first byte of the text, not of the frame if that has escapes
    const char* at             # the next byte
    const char* end
    const uint32_t* quotes     # offsets behind each quote from `at` on


# ---- room ------------------------------------------------------------------------------------------------------------

# Room for texts of *size* bytes: False if that is too long or there is no memory. Start from a zeroed JsonRoom.
cdef inline bint json_make_room(JsonRoom* room, size_t size) noexcept nogil:
    cdef size_t bytes = max(size, <size_t>JSON_FIRST_ROOM)
    if size <= room.bytes:
        return True
    if size > JSON_MAX_BYTES:
        return False
    json_free_room(room)
    room.quotes = <uint32_t*>malloc((bytes + SISE_FIND_SLACK) * sizeof(uint32_t))
    room.copy = <char*>malloc(bytes)
    if room.quotes is NULL or room.copy is NULL:
        json_free_room(room)
        return False
    room.bytes = bytes
    return True


cdef inline void json_free_room(JsonRoom* room) noexcept nogil:
    free(room.quotes)
    free(room.copy)
    room.quotes = NULL
    room.copy = NULL
    room.bytes = 0


# ---- opening: quotes and escapes -------------------------------------------------------------------------------------

# No escape and no control character: then every quote begins or ends a string.
cdef inline bint json_is_plain(const char* data, size_t size) noexcept nogil:
    cdef uint8_t special = 0, byte
    cdef size_t i
    for i in range(size):
        byte = <uint8_t>data[i]
        special |= <uint8_t>(byte < 0x20) | <uint8_t>(byte == c'\\')
    return special == 0


# The value of four hex digits, or -1.
cdef inline int json_hex4(const char* p) noexcept nogil:
    cdef int value = 0, i, digit
    for i in range(4):
        digit = p[i]
        if c'0' <= digit <= c'9':
            digit -= c'0'
        elif c'a' <= (digit | 0x20) <= c'f':
            digit = (digit | 0x20) - c'a' + 10
        else:
            return -1
        value = value * 16 + digit
    return value


# Copy one escape, *p at its backslash, resolved if it stands for a plain character. False if it is none.
cdef inline bint json_copy_escape(const char** p, const char* end, char** out) noexcept nogil:
    cdef const char* at = p[0]
    cdef int code, width = 2
    if end - at < 2:
        return False
    code = at[1]
    if code == c'u':
        if end - at < 6:
            return False
        code = json_hex4(at + 2)
        if code < 0:
            return False
        width = 6
    elif code == c'/':
        pass
    elif code == c'"' or code == c'\\':
        pass
    elif code == c'b' or code == c'f' or code == c'n' or code == c'r' or code == c't':
        code = 0
    else:
        return False
    p[0] = at + width
    if 0x20 <= code < 0x7f and code != c'"' and code != c'\\':
        out[0][0] = <char>code
        out[0] += 1
    else:
        memcpy(out[0], at, <size_t>width)
        out[0] += width
    return True


# The walk byte by byte that a text with escapes or control characters needs: copy it, note the quotes that begin or end
# a string. False if a string is not closed, or has a control character or an escape that does not exist.
cdef inline bint json_copy(const char* data, size_t size, JsonRoom* room, size_t* copied,
                           size_t* found) noexcept nogil:
    cdef const char* p = data
    cdef const char* end = data + size
    cdef char* out = room.copy
    cdef bint inside = False
    found[0] = 0
    while p < end:
        if inside and p[0] == c'\\':
            if not json_copy_escape(&p, end, &out):
                return False
            continue
        if inside and <uint8_t>p[0] < 0x20:
            return False
        out[0] = p[0]
        out += 1
        if p[0] == c'"':
            inside = not inside
            room.quotes[found[0]] = <uint32_t>(out - room.copy)
            found[0] += 1
        p += 1
    copied[0] = <size_t>(out - room.copy)
    return not inside


# Start a walk over data[0..size-1]. False: too long, or its strings are not JSON.
cdef inline bint json_open(JsonCursor* cursor, JsonRoom* room, const char* data, size_t size) noexcept nogil:
    cdef size_t found = 0, length = size
    if not json_make_room(room, size):
        return False
    if json_is_plain(data, size):
        found = sise_find(data, size, c'"', room.quotes)
        cursor.floor = data
    else:
        if not json_copy(data, size, room, &length, &found):
            return False
        cursor.floor = room.copy
    cursor.at = cursor.floor
    cursor.end = cursor.floor + length
    cursor.quotes = room.quotes
    return found % 2 == 0


# ---- tokens ----------------------------------------------------------------------------------------------------------

# The next byte that is no white space, not taken; 0 at the end of the text.
cdef inline char json_peek(JsonCursor* cursor) noexcept nogil:
    while cursor.at < cursor.end:
        if <uint8_t>cursor.at[0] > c' ':
            return cursor.at[0]
        if cursor.at[0] != c' ' and cursor.at[0] != c'\n' and cursor.at[0] != c'\t' and cursor.at[0] != c'\r':
            return cursor.at[0]
        cursor.at += 1
    return 0


# Take *c* if it is next.
cdef inline bint json_take(JsonCursor* cursor, char c) noexcept nogil:
    if json_peek(cursor) != c:
        return False
    cursor.at += 1
    return True


# Is nothing left but white space?
cdef inline bint json_is_done(JsonCursor* cursor) noexcept nogil:
    return json_peek(cursor) == 0 and cursor.at == cursor.end


# Take a string: its contents are [begin, end).
cdef inline bint json_string(JsonCursor* cursor, const char** begin, const char** end) noexcept nogil:
    if json_peek(cursor) != c'"':
        return False
    begin[0] = cursor.floor + cursor.quotes[0]
    cursor.at = cursor.floor + cursor.quotes[1]
    end[0] = cursor.at - 1
    cursor.quotes += 2
    return True


# Take a number as it is written: - digits [. digits] [e digits].
cdef inline bint json_number(JsonCursor* cursor, const char** begin, const char** end) noexcept nogil:
    cdef const char* p
    cdef const char* digits
    cdef const char* stop = cursor.end
    json_peek(cursor)
    p = cursor.at
    begin[0] = p
    if p < stop and p[0] == c'-':
        p += 1
    digits = p
    while p < stop and c'0' <= p[0] <= c'9':
        p += 1
    if p == digits or (digits[0] == c'0' and p - digits > 1):
        return False
    if p < stop and p[0] == c'.':
        p += 1
        digits = p
        while p < stop and c'0' <= p[0] <= c'9':
            p += 1
        if p == digits:
            return False
    if p < stop and (p[0] == c'e' or p[0] == c'E'):
        p += 1
        if p < stop and (p[0] == c'-' or p[0] == c'+'):
            p += 1
        digits = p
        while p < stop and c'0' <= p[0] <= c'9':
            p += 1
        if p == digits:
            return False
    end[0] = cursor.at = p
    return True


# The exact value of a number as json_number() found it, exponent included: mantissa / 10**scale. False if that takes
# more than 63 bits or 18 decimals. Decimals are kept as they are written: 1.50 is (150, 2), 1.50E1 is (150, 1).
cdef inline bint json_decimal(const char* floor, const char* begin, const char* end, int64_t* mantissa,
                              uint8_t* scale) noexcept nogil:
    cdef const char* p = end - 1
    cdef int exponent = 0, decimals
    cdef bint negative = False
    cdef int64_t limit = 922337203685477580   # (2**63 - 1) // 10
    # an exponent is short: the last four characters show whether there is one that can be of use
    while p > begin and end - p < 8 and p[0] != c'e' and p[0] != c'E':
        p -= 1
    if p[0] != c'e' and p[0] != c'E':
        return scan_decimal(floor, begin, end, mantissa, scale)
    if not scan_decimal(floor, begin, p, mantissa, scale):
        return False
    p += 1
    if p[0] == c'-' or p[0] == c'+':
        negative = p[0] == c'-'
        p += 1
    while p < end:
        exponent = exponent * 10 + (p[0] - c'0')
        p += 1
    decimals = scale[0] + (exponent if negative else -exponent)
    if mantissa[0] == 0:
        decimals = min(max(decimals, 0), <int>SCAN_MAX_SCALE)
    while decimals < 0:
        if mantissa[0] > limit or mantissa[0] < -limit:
            return False
        mantissa[0] *= 10
        decimals += 1
    if decimals > SCAN_MAX_SCALE:
        return False
    scale[0] = <uint8_t>decimals
    return True


# Take one of the three words.
cdef inline bint json_word(JsonCursor* cursor) noexcept nogil:
    cdef Py_ssize_t left = cursor.end - cursor.at
    if left >= 4 and (memcmp(cursor.at, b"true", 4) == 0 or memcmp(cursor.at, b"null", 4) == 0):
        cursor.at += 4
        return True
    if left >= 5 and memcmp(cursor.at, b"false", 5) == 0:
        cursor.at += 5
        return True
    return False


# ---- objects and arrays ----------------------------------------------------------------------------------------------
#
#     if json_take(&cursor, c'{'):
#         first = True
#         while json_member(&cursor, &first, &key, &key_end, &bad):
#             ... take the value: json_string, json_number, json_skip, or walk into it
#         if bad: return ...

# Go to the value of the next member: its key is [key, key_end). False: the object is closed, or *bad.
cdef inline bint json_member(JsonCursor* cursor, bint* first, const char** key, const char** key_end,
                             bint* bad) noexcept nogil:
    cdef char c = json_peek(cursor)
    bad[0] = False
    if c == c'}':
        cursor.at += 1
        return False
    if not first[0]:
        if c != c',':
            bad[0] = True
            return False
        cursor.at += 1
    first[0] = False
    if json_string(cursor, key, key_end) and json_take(cursor, c':'):
        return True
    bad[0] = True
    return False


# Go to the next element. False: the array is closed, or *bad.
cdef inline bint json_element(JsonCursor* cursor, bint* first, bint* bad) noexcept nogil:
    cdef char c = json_peek(cursor)
    bad[0] = False
    if first[0]:
        first[0] = False
        if c == c']':
            cursor.at += 1
            return False
        return True
    if c == c',' or c == c']':
        cursor.at += 1
        return c == c','
    bad[0] = True
    return False


# Take any value, whatever is in it.
cdef inline bint json_skip(JsonCursor* cursor) noexcept nogil:
    cdef const char* begin
    cdef const char* end
    cdef uint64_t objects = 0     # bit 0: the innermost container is an object
    cdef int depth = 0
    cdef char c
    while True:
        # a value
        c = json_peek(cursor)
        if c == c'"':
            json_string(cursor, &begin, &end)
        elif c == c'{' or c == c'[':
            cursor.at += 1
            if json_peek(cursor) == (c'}' if c == c'{' else c']'):
                cursor.at += 1
            else:
                if depth == JSON_MAX_DEPTH:
                    return False
                depth += 1
                objects = objects << 1 | <uint64_t>(c == c'{')
                if c == c'{' and not (json_string(cursor, &begin, &end) and json_take(cursor, c':')):
                    return False
                continue
        elif c == c'-' or c'0' <= c <= c'9':
            if not json_number(cursor, &begin, &end):
                return False
        elif not json_word(cursor):
            return False
        # what follows it
        while True:
            if depth == 0:
                return True
            c = json_peek(cursor)
            if c == c',':
                cursor.at += 1
                if objects & 1 and not (json_string(cursor, &begin, &end) and json_take(cursor, c':')):
                    return False
                break
            if c != (c'}' if objects & 1 else c']'):
                return False
            cursor.at += 1
            objects >>= 1
            depth -= 1


# Is [begin, end) exactly *text*?
cdef inline bint json_is(const char* begin, const char* end, const char* text, size_t size) noexcept nogil:
    return <size_t>(end - begin) == size and memcmp(begin, text, size) == 0
