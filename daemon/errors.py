"""The one tree of errors.

IngestError
├── Retryable        network, venue busy, database away: try again later
│   └── Untrusted    the peer's certificate is expired, of another host or of nobody we know
├── Refused          login, limit, bad symbol: trying again changes nothing
├── BadFrame         data we cannot parse
├── ConfigError      what the operator wrote; the message names file and key (exit code 2)
├── RingError        a ring file that is not what it says
│   ├── RingInUse    it is fine, and another process has it
│   └── RingReplaced it was deleted, replaced or cut under us, or a new one is there: whoever starts again opens it
└── InvariantBroken  our own bug: the process dies and is restarted
"""


class IngestError(Exception):
    """Base of every error that Sise raises on purpose."""


class Retryable(IngestError):
    """Something outside is away or busy; the same call may succeed later."""


class Untrusted(Retryable):
    """The peer has no certificate that we accept; nothing was said to it."""


class Refused(IngestError):
    """Somebody said no, and will say no again."""


class BadFrame(IngestError):
    """A frame that does not follow the venue's protocol."""


class ConfigError(IngestError):
    """A setting is wrong. The message is one line and names the file and the key."""


class RingError(IngestError):
    """A ring file has the wrong magic, version or size, or another process holds it."""


class RingInUse(RingError):
    """Another process produces into the ring, or reads it as the same consumer; the file is fine."""


class RingReplaced(RingError):
    """The files of the rings are others than those that were opened: a new start finds them."""


class InvariantBroken(IngestError):
    """A promise of the design does not hold: a bug of ours."""


def first_line(exc: BaseException) -> str:
    """Return what *exc* says, cut to one line; its type where it says nothing."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
