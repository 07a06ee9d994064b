"""Messages over a trio stream.

Above: `client` and `worker`. Below: `protocol`, and a socket or a pair of streams in memory.
Invariant: one task sends all the messages of a side, and it is cancelled only together with its stream,
since half a message would garble all that follow.
"""

from collections.abc import AsyncIterator

import trio

from infinitfs.transfer.protocol import Decoder, Message

_CHUNK = 256 * 1024
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


async def receive(stream: trio.abc.ReceiveStream, decoder: Decoder[Message]) -> list[Message]:
    """The next messages, at least one; none at all when the other side is gone."""
    while True:
        try:
            data = await stream.receive_some(_CHUNK)
        except GONE:
            return []
        if not data:
            return []
        messages = decoder.feed(data)
        if messages:
            return messages


async def send_all(stream: trio.abc.SendStream, messages: AsyncIterator[bytes | bytearray]) -> None:
    """Send encoded messages until there are no more, or the other side is gone."""
    try:
        async for message in messages:
            await stream.send_all(message)
    except GONE:
        return
