# Part of step 2 of 6 in the life of a tick: where the values of one entry of a Kiwoom push are.
#
#     {"type":"0B","name":"...","item":"005930","values":{"20":"103015", ...}}
#
# Members come in any order, so an entry is read to its end before its type says what its values mean.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from native_pipeline.scan_json cimport (
    JsonCursor,
    json_element,
    json_is,
    json_member,
    json_number,
    json_peek,
    json_skip,
    json_string,
    json_take,
)


cdef extern from "kiwoom_types.h" nogil:
    enum:
        SISE_KIWOOM_TYPES
        SISE_KIWOOM_IGNORED
        SISE_KIWOOM_NONE
        SISE_KIWOOM_LEVELS
        SISE_KIWOOM_SLOTS

    # What the entries of one type hold, and in which slots.
    ctypedef struct sise_kiwoom_type:
        char code[2]
        uint8_t kind
        uint8_t event
        uint8_t time
        uint8_t price
        uint8_t volume
        uint8_t cum_volume
        uint8_t change_rate
        uint8_t ask
        uint8_t bid
        uint8_t symbol

    const sise_kiwoom_type sise_kiwoom_types[]
    const uint8_t sise_kiwoom_level_numbers[]
    const uint16_t sise_kiwoom_fids[]
    unsigned sise_kiwoom_slot(const char* key, size_t size)


# One entry of a push as it was found. All pointers are into the text that the cursor walks over.
cdef struct KiwoomEntry:
    const char* begin          # of the entry's own text
    const char* end
    const sise_kiwoom_type* type   # NULL: none that is known
    const char* item
    const char* item_end       # item == item_end: none
    bint has_values
    # value of slot s: floor[values[2 * s] : values[2 * s + 1] - 1]
    uint32_t values[120]


cdef enum:
    NO_VALUE = 8    # where a field that is missing begins and ends: readable, as is what lies in front


# The members of "values" as they usually come, "20":"103015", one right behind the other: up to the first that is not.
# Where each begins and ends is known from the quotes alone, so that the processor need not wait for one to find the
# next: a third of the time of json_member().
cdef inline void read_plain_values(JsonCursor* cursor, bint* first, KiwoomEntry* entry) noexcept nogil:
    cdef const uint32_t* quotes = cursor.quotes
    cdef const char* floor = cursor.floor
    cdef const char* at = cursor.at          # where the key's quote has to be
    cdef const char* stop = cursor.end - 3   # the last byte with two behind it
    cdef const char* key_end
    cdef int slot
    while at < stop and at[0] == c'"':
        key_end = floor + quotes[1] - 1
        if key_end >= stop or key_end[1] != c':' or key_end[2] != c'"':
            break
        slot = <int>sise_kiwoom_slot(at + 1, <size_t>(key_end - at - 1))
        entry.values[2 * slot] = quotes[2]
        entry.values[2 * slot + 1] = quotes[3]
        cursor.at = floor + quotes[3]
        quotes += 4
        first[0] = False
        if cursor.at >= stop or cursor.at[0] != c',':
            break
        at = cursor.at + 1
    cursor.quotes = quotes


# "values", an object of FIDs. False: not JSON. A value that is a number counts as if it had quotes, null as empty.
cdef inline bint read_values(JsonCursor* cursor, KiwoomEntry* entry) noexcept nogil:
    cdef const char* key
    cdef const char* key_end
    cdef const char* begin
    cdef const char* end
    cdef bint first = True, bad = False
    cdef int slot
    cdef char c
    for slot in range(SISE_KIWOOM_SLOTS):
        entry.values[2 * slot] = NO_VALUE
        entry.values[2 * slot + 1] = NO_VALUE + 1
    cursor.at += 1
    read_plain_values(cursor, &first, entry)
    while json_member(cursor, &first, &key, &key_end, &bad):
        slot = <int>sise_kiwoom_slot(key, <size_t>(key_end - key))
        begin = end = cursor.floor + NO_VALUE
        c = json_peek(cursor)
        if c == c'"':
            json_string(cursor, &begin, &end)
        elif c == c'-' or c'0' <= c <= c'9':
            if not json_number(cursor, &begin, &end):
                return False
        elif not json_skip(cursor):
            return False
        entry.values[2 * slot] = <uint32_t>(begin - cursor.floor)
        entry.values[2 * slot + 1] = <uint32_t>(end - cursor.floor) + 1
    entry.has_values = True
    return not bad


# "values", whatever it is: an object, or a list with one. False: not JSON.
cdef inline bint read_any_values(JsonCursor* cursor, KiwoomEntry* entry) noexcept nogil:
    cdef bint first = True, bad = False
    cdef int objects = 0
    entry.has_values = False
    if json_peek(cursor) == c'{':
        return read_values(cursor, entry)
    if not json_take(cursor, c'['):
        return json_skip(cursor)
    while json_element(cursor, &first, &bad):
        objects += 1
        if objects == 1 and json_peek(cursor) == c'{':
            if not read_values(cursor, entry):
                return False
        else:
            entry.has_values = False
            if not json_skip(cursor):
                return False
    return not bad


cdef inline const sise_kiwoom_type* find_type(const char* begin, const char* end) noexcept nogil:
    cdef int i
    for i in range(SISE_KIWOOM_TYPES):
        if json_is(begin, end, sise_kiwoom_types[i].code, sizeof(sise_kiwoom_types[i].code)):
            return &sise_kiwoom_types[i]
    return NULL


# One element of `data`, whatever it is. False: not JSON.
cdef inline bint read_entry(JsonCursor* cursor, KiwoomEntry* entry) noexcept nogil:
    cdef const char* key
    cdef const char* key_end
    cdef const char* begin
    cdef const char* end
    cdef bint first = True, bad = False, is_text
    entry.type = NULL
    entry.item = entry.item_end = cursor.floor
    entry.has_values = False
    if json_peek(cursor) != c'{':
        entry.begin = cursor.at
        bad = not json_skip(cursor)
        entry.end = cursor.at
        return not bad
    entry.begin = cursor.at
    cursor.at += 1
    while json_member(cursor, &first, &key, &key_end, &bad):
        if json_is(key, key_end, b"values", 6):
            if not read_any_values(cursor, entry):
                return False
            continue
        begin = end = cursor.floor
        is_text = json_peek(cursor) == c'"'
        if is_text:
            json_string(cursor, &begin, &end)
        elif not json_skip(cursor):
            return False
        if json_is(key, key_end, b"type", 4):
            entry.type = find_type(begin, end)
        elif json_is(key, key_end, b"item", 4):
            entry.item = begin
            entry.item_end = end
    entry.end = cursor.at
    return not bad
