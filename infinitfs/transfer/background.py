"""Tasks that serve the body of a context manager.

Above: `client` and `cache`. Below: trio.
Invariant: the tasks end with the body, and the body's own error leaves as it is, not in an ExceptionGroup.
"""

import contextlib
from collections.abc import AsyncIterator

import trio


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled when the body is left. A task that fails cancels the body, and its error
    leaves."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
