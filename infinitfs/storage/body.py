"""The body of a request that sends bytes, as the client reads it, and the checksum that goes with it.

Above: `s3`. Below: ISA-L, where it is made for the processor, else zlib.
Invariant: nothing is copied; every piece is a view of what is sent.

Of bytes botocore makes a file, and urllib3 reads 16 KiB at a time of a file: a pack takes 512 calls to send, and as
many times the interpreter's lock. Four times as much at once, and ISA-L's CRC-32 in place of zlib's, take a third off
the CPU time of an upload. More at once gains little and costs who has a slow line: all of a piece has to be taken in
the time that a connection is waited for, and many connections share the line.
"""

from base64 import b64encode

from infinitfs.storage.base import Buffer

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

PIECE = 64 * 1024
"""Bytes that are sent at once."""


def checksum(data: Buffer) -> str:
    """CRC-32, as the header `x-amz-checksum-crc32` has it."""
    return b64encode(crc32(data).to_bytes(4, "big")).decode()


class Body:
    """`data`, as a file that can only be read: what botocore (to sign it, to send it again) and urllib3 call."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)
        self._position = 0

    def __len__(self) -> int:
        return len(self._data)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, most: int) -> memoryview:
        """The next bytes, none at the end: `most` of them, and PIECE where that is more."""
        piece = self._data[self._position : self._position + max(most, PIECE)]
        self._position += len(piece)
        return piece
