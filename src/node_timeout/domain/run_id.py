"""Run ids: 128 bits that identify a node run, and that other languages can compute as well.

    digest = SHA-256(for each of root pipeline id, node id, version, in UTF-8:
                     its length in bytes as 4 bytes, big-endian, then its bytes)
    run id = the first 16 bytes of the digest; as text 26 characters, Crockford's base 32 of the
             number

The text has no underscore, which every foreign pool member has, and sorts like the bytes.
"""

from __future__ import annotations

import re
from base64 import b32encode
from functools import lru_cache
from hashlib import sha256
from typing import Any
from uuid import UUID

LENGTH = 26
_CROCKFORD = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_TEXT = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD)
_TO_NUMBER = str.maketrans(_CROCKFORD.decode(), "0123456789abcdefghijklmnopqrstuv")
_PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_BYTES = 16


@lru_cache(maxsize=4096)  # the id of one run is computed several times
def run_id(root_pipeline_id: str, node_id: str, version: str) -> str:
    """The id of a run, as text."""
    parts = [part.encode() for part in (root_pipeline_id, node_id, version)]
    digest = sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    return to_text(digest[:_BYTES])


def to_text(number: bytes) -> str:
    """The text of 16 bytes."""
    # Four zero bytes in front make the groups of five bits end where the number ends.
    return b32encode(bytes(4) + number).translate(_TO_TEXT)[-LENGTH:].decode()


def to_bytes(text: str) -> bytes:
    """The 16 bytes of a run id."""
    return int(text.translate(_TO_NUMBER), 32).to_bytes(_BYTES, "big")


def from_database(value: Any) -> str:
    """The text of a run id as a database returns it: a UUID, or 16 bytes."""
    return to_text(value.bytes if isinstance(value, UUID) else bytes(value))


def is_run_id(text: str) -> bool:
    return _PATTERN.fullmatch(text) is not None
