"""The body of a request: what a client reads of it is all of it, in large pieces, again and again."""

import random
from base64 import b64decode
from hashlib import sha256
from zlib import crc32

import pytest

from infinitfs.storage.base import Buffer
from infinitfs.storage.body import PIECE, Body, checksum

DATA = random.Random(7).randbytes(3 * PIECE + 5)


@pytest.mark.parametrize("data", [DATA, bytearray(DATA), memoryview(DATA), memoryview(b"-" + DATA)[1:], b""])
def test_it_is_read_in_pieces_that_are_views(data: Buffer) -> None:
    body = Body(data)
    assert len(body) == len(data)
    pieces = list(iter(lambda: body.read(16 * 1024), b""))
    assert [len(piece) for piece in pieces] == ([PIECE] * 3 + [5] if data else [])
    assert all(piece.obj is memoryview(data).obj for piece in pieces)
    assert b"".join(pieces) == data
    assert body.tell() == len(data)


def test_it_is_read_again() -> None:
    """botocore signs it in pieces of a megabyte, and sends it once more where it is told of another place."""
    body = Body(DATA)
    for _ in range(2):
        digest = sha256()
        for piece in iter(lambda: body.read(1024 * 1024), b""):
            digest.update(piece)
        assert digest.digest() == sha256(DATA).digest()
        body.seek(0)
    assert body.tell() == 0


@pytest.mark.parametrize("size", [0, 1, 5000, len(DATA)])
def test_the_checksum_is_that_of_zlib(size: int) -> None:
    assert b64decode(checksum(memoryview(DATA)[:size])) == crc32(DATA[:size]).to_bytes(4, "big")
