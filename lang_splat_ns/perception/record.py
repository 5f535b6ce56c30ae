"""One cache record as bytes: an npz that `numpy.load` opens, with a digest of itself at its end."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

# A zip archive may end with a comment, and its length stands in the two bytes before it. The digest of everything
# up to there is that comment, so a record stays an ordinary npz, and one look at the bytes tells whether it is whole.
_PREFIX = b"sha256:"
_COMMENT_LENGTH = len(_PREFIX) + 64
_LENGTH_BYTES = 2
_TRAILER_LENGTH = _LENGTH_BYTES + _COMMENT_LENGTH
_META = "__meta__"


class BrokenRecordError(Exception):
    """The bytes are no whole record; the message says what is wrong with them."""


class Record(NamedTuple):
    """What `pack` was given, and the digest of the bytes (64 hex digits)."""

    arrays: dict[str, npt.NDArray[Any]]
    meta: dict[str, Any]
    digest: str


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
    body, digest = content[:-_TRAILER_LENGTH], _digest_in(content[-_TRAILER_LENGTH:])
    if hashlib.sha256(body).hexdigest() != digest:
        raise BrokenRecordError("its bytes do not match their digest")
    return digest


def claimed_digest(file: BinaryIO) -> str:
    """The digest that a record carries in its last bytes, the only ones that are read.

    The trailer is written last, so a truncated record has none. Bytes altered before it are for `check` to notice.

    Raises:
        BrokenRecordError: truncated, or never a record.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TRAILER_LENGTH))
    return _digest_in(file.read(_TRAILER_LENGTH))


def read_meta(file: BinaryIO) -> dict[str, Any]:
    """The description alone; the arrays stay packed.

    Raises:
        BrokenRecordError: there is none that can be read.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(json.loads(arrays[_META].tobytes()))
    except Exception as error:
        raise BrokenRecordError(f"cannot be read: {error}") from error


def unpack(content: bytes) -> Record:
    """The record that `pack` made.

    Raises:
        BrokenRecordError: the bytes are not what `pack` wrote.
    """
    digest = check(content)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = dict(json.loads(arrays.pop(_META).tobytes()))
    except Exception as error:
        # The digest is right and the content is not ours: somebody else wrote it. Whatever the zip, numpy and JSON
        # readers make of it, the answer is the same.
        raise BrokenRecordError(f"cannot be read: {error}") from error
    return Record(arrays, meta, digest)


def _digest_in(trailer: bytes) -> str:
    length, comment = int.from_bytes(trailer[:_LENGTH_BYTES], "little"), trailer[_LENGTH_BYTES:]
    if len(comment) != _COMMENT_LENGTH or length != _COMMENT_LENGTH or not comment.startswith(_PREFIX):
        raise BrokenRecordError("truncated, or no record of this suite")
    return comment[len(_PREFIX) :].decode("ascii", errors="replace")
