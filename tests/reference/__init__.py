"""Slow, obvious twins of native code: the same answer, written so that it can be checked by reading."""
