"""Read one stream of Sise without missing anything silently: an example to copy, needs only redis-py.

    python docs/examples/read_stream.py redis://localhost:6379/0 stream:ticker.kr:0 [LAST_ID]

Every message names the one before it (`prev_seq`). If that is not the last one read, something lies between that this
reader will never see: trimmed away (`redis.stream_maxlen`) while it was not reading, or never published.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import redis

Message = dict[str, Any]


class StreamReader:
    """Yields ("message", ...) and ("gap", ...) in order. Keep `last_id` with your own data: start from there again."""

    def __init__(self, client: redis.Redis, key: str, last_id: str = "0-0") -> None:
        self._client = client
        self._key = key
        self.last_id = last_id
        self._known_through = int(last_id.partition("-")[0])  # the first half of an id is the seq; 0: whatever comes

    def read(self, *, count: int = 1000, block_ms: int = 1000) -> Iterator[tuple[str, Message]]:
        """Return what came since the last call, up to *count* entries; waits if there is nothing."""
        for _, entries in self._client.xread({self._key: self.last_id}, count=count, block=block_ms) or ():
            for entry_id, fields in entries:
                yield from self._judge(fields)
                self.last_id = entry_id.decode()

    def _judge(self, fields: dict[bytes, bytes]) -> Iterator[tuple[str, Message]]:
        if b"gap" in fields:  # the publisher knows that it lost something, and how much
            gap = json.loads(fields[b"gap"])
            self._known_through = gap["through_seq"]
            yield "gap", gap
            return
        message = json.loads(fields[b"message"])
        if self._known_through and message["prev_seq"] > self._known_through:
            yield (
                "gap",
                {
                    "type": "gap",
                    "source": message["source"],
                    "after_seq": self._known_through,
                    "through_seq": message["prev_seq"],
                    "missing": None,
                    "reason": "trimmed",
                },
            )
        self._known_through = message["seq"]
        yield "message", message


def main() -> None:
    """Print everything, for ever."""
    url, key, *last_id = sys.argv[1:]
    reader = StreamReader(redis.Redis.from_url(url, protocol=2), key, *last_id)
    while True:
        for kind, content in reader.read():
            sys.stdout.write(f"{kind} {json.dumps(content)}\n")


if __name__ == "__main__":
    main()
