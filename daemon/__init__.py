"""Sise's processes and decisions; the bytes are native_pipeline's."""
