"""Build the native modules; everything else is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = [
    "streams",
    "ledger",
    "ring_file",
    "ring_creation",
    "ring_check",
    "ring_recovery",
    "ring_writer",
    "ring_accounts",
    "ring_reader",
    "stream_receipts",
    "counters",
    "frame_parser",
    "frame_listener",
    "raw_frames",
    "parse_kis",
    "parse_kiwoom",
    "parse_upbit",
    "record_block",
    "copy_encoder",
    "json_messages",
    "minute_counts",
    "published_ring",
    "redis_replies",
    "redis_encoder",
    "records",
]
SANITIZE = ["-fsanitize=address", "-fno-omit-frame-pointer"] if os.environ.get("SISE_ASAN") else []

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"native_pipeline.{name}",
                [f"native_pipeline/{name}.pyx"],
                include_dirs=["native_pipeline"],
                depends=[str(header) for header in Path("native_pipeline").glob("*.h")],
                extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wno-unused-function", *SANITIZE],
                extra_link_args=SANITIZE,
            )
            for name in MODULES
            if Path(f"native_pipeline/{name}.pyx").exists() and name in os.environ.get("SISE_MODULES", name).split(",")
        ],
        compiler_directives={"language_level": "3", "freethreading_compatible": False},
        show_all_warnings=False,
        annotate=bool(os.environ.get("SISE_ANNOTATE")),
    ),
)
