"""Items in groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in their order, the last one perhaps shorter (Python 3.12 has this in itertools)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
