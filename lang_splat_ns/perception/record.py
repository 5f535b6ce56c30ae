"""One cache record as bytes: an npz that `numpy.load` opens, with a digest of itself at its end."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# A zip archive may end with a comment, and its length stands in the two bytes before it. The digest of everything
# up to there is that comment, so a record stays an ordinary npz, and one look at the bytes tells whether it is whole.
_PREFIX = b"sha256:"
_COMMENT_LENGTH = len(_PREFIX) + 64
_LENGTH_BYTES = 2
_META = "__meta__"


class BrokenRecordError(Exception):
    """The bytes are no whole record; the message says what is wrong with them."""


def pack(arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> bytes:
    """Arrays and a plain JSON description as bytes.

    Args:
        arrays: name -> array; no object arrays, since nothing is pickled.
        meta: what the record is; JSON values only.
    """
    if _META in arrays:
        raise ValueError(f"the array name {_META} is taken by the description")
    description = np.frombuffer(json.dumps(meta, sort_keys=True).encode("utf-8"), dtype=np.uint8)
    buffer = io.BytesIO()
    contents: dict[str, Any] = {_META: description, **arrays}
    if any(np.asarray(array).dtype.hasobject for array in contents.values()):
        raise ValueError("object arrays cannot be stored: reading them back would run a pickle")
    np.savez_compressed(buffer, **contents)
    body = buffer.getvalue()[:-_LENGTH_BYTES]
    digest = hashlib.sha256(body).hexdigest().encode("ascii")
    return body + _COMMENT_LENGTH.to_bytes(_LENGTH_BYTES, "little") + _PREFIX + digest


def check(content: bytes) -> str:
    """Compare the bytes with their own digest, without unpacking them; returns the digest (64 hex digits).

    Raises:
        BrokenRecordError: truncated, altered, or never a record.
    """
    comment = content[-_COMMENT_LENGTH:]
    if len(content) <= _COMMENT_LENGTH + _LENGTH_BYTES or not comment.startswith(_PREFIX):
        raise BrokenRecordError("truncated, or no record of this suite")
    body = content[: -_COMMENT_LENGTH - _LENGTH_BYTES]
    length = int.from_bytes(content[len(body) : len(body) + _LENGTH_BYTES], "little")
    if length != _COMMENT_LENGTH or hashlib.sha256(body).hexdigest().encode("ascii") != comment[len(_PREFIX) :]:
        raise BrokenRecordError("its bytes do not match their digest")
    return comment[len(_PREFIX) :].decode("ascii")


def unpack(content: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays and the description that `pack` was given.

    Raises:
        BrokenRecordError: the bytes are not what `pack` wrote.
    """
    check(content)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(_META).tobytes())
    except Exception as error:
        # The digest is right and the content is not ours: somebody else wrote it. Whatever the zip, numpy and JSON
        # readers make of it, the answer is the same.
        raise BrokenRecordError(f"cannot be read: {error}") from error
    return arrays, meta
