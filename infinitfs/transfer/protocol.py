"""What the two processes of a mount say to each other.

Above: `client` and `worker`. Below: nothing; there is no I/O here: bytes go in, messages come out, and the
reverse.
Invariant: a message is a length (4 bytes, big-endian) and that many bytes of msgpack, at most
MESSAGE_LIMIT; whatever else arrives is an InfinitfsError, after which the stream is of no use.

The first request of a stream is an Open. Requests are answered in any order, each by one Done or Failed
with its id; a listing sends any number of Parts before its Done. Every reply also says what was asked of the storage
since the one before it, for whichever request. A Cancel names the request that it ends
early, which is answered all the same. Paths are the bytes that the operating system takes.
"""

from typing import Generic, TypeVar

import msgspec

from infinitfs.config.model import StorageRecord
from infinitfs.errors import InfinitfsError, from_wire
from infinitfs.storage.account import Account
from infinitfs.storage.base import ObjectInfo
from infinitfs.storage.ledger import Usage

MESSAGE_LIMIT = 64 * 1024 * 1024
HEADER = 4


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Which storage the stream is about. Limits in bytes a second, `deadline` in seconds: how long one
    request that failed is tried again before its last error is the answer."""

    record: StorageRecord
    account: Account | None = None
    connections: int = 32
    upload_limit: float | None = None
    download_limit: float | None = None
    deadline: float = 60.0


class Upload(msgspec.Struct, frozen=True, tag="upload"):
    """Answered by the number of bytes sent."""

    key: str
    path: bytes


class Download(msgspec.Struct, frozen=True, tag="download"):
    """Answered by the number of bytes written to `path`; `whole`: there is no more of the object."""

    key: str
    start: int
    length: int
    whole: bool
    path: bytes


class Put(msgspec.Struct, frozen=True, tag="put"):
    key: str
    data: bytes
    create: bool


class Get(msgspec.Struct, frozen=True, tag="get"):
    """Answered by the bytes."""

    key: str
    start: int
    length: int | None


class Size(msgspec.Struct, frozen=True, tag="size"):
    """Answered by the number of bytes."""

    key: str


class List(msgspec.Struct, frozen=True, tag="list"):
    """Answered by Parts."""

    prefix: str


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    key: str


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Its request's id is that of the request to end."""


Operation = Upload | Download | Put | Get | Size | List | Delete


class Request(msgspec.Struct, frozen=True, array_like=True):
    id: int
    body: Open | Operation | Cancel


Value = None | int | bytes


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """Some of a listing's objects, in order; more may follow."""

    objects: list[ObjectInfo]


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    value: Value = None


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """An error of `errors.py`: the name of its class and its fields."""

    name: str
    fields: dict[str, str]

    @classmethod
    def of(cls, error: InfinitfsError) -> "Failed":
        return cls(type(error).__name__, error.fields)

    def error(self) -> InfinitfsError:
        return from_wire(self.name, self.fields)


class Reply(msgspec.Struct, frozen=True, array_like=True):
    id: int
    outcome: Part | Done | Failed
    usage: dict[str, Usage] = {}


Message = TypeVar("Message", Request, Reply)

_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Reply) -> bytearray:
    """The bytes of a message. Raises InfinitfsError where it is too long to be sent."""
    data = bytearray(HEADER)
    _encoder.encode_into(message, data, HEADER)
    length = len(data) - HEADER
    if length > MESSAGE_LIMIT:
        raise InfinitfsError(detail=f"a message of {length} bytes between our processes is over {MESSAGE_LIMIT}")
    data[:HEADER] = length.to_bytes(HEADER, "big")
    return data


class Decoder(Generic[Message]):
    """Messages of one kind from a stream of bytes that arrive in pieces of any size."""

    def __init__(self, kind: type[Message]) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> list[Message]:
        """The messages that `data` completes. Raises InfinitfsError where they are none."""
        self._buffer += data
        messages: list[Message] = []
        position = 0
        while len(self._buffer) - position >= HEADER:
            begin = position + HEADER
            length = int.from_bytes(self._buffer[position:begin], "big")
            if length > MESSAGE_LIMIT:
                raise InfinitfsError(detail=f"a message of {length} bytes arrived from our own other process")
            if len(self._buffer) < begin + length:
                break
            with memoryview(self._buffer) as view:
                messages.append(self._decode(view[begin : begin + length]))
            position = begin + length
        del self._buffer[:position]
        return messages

    def _decode(self, data: memoryview) -> Message:
        try:
            with data:
                return self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise InfinitfsError(detail=f"a message from our own other process is none: {error}") from None
