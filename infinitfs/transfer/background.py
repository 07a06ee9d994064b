"""Nurseries whose errors leave as they are.

Above: whoever runs tasks and handles their errors by class. Below: trio, which wraps errors in an ExceptionGroup.
Invariant: one error leaves as itself; of several, the first that is not a cancellation.
"""

import contextlib
from collections.abc import AsyncIterator

import trio


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled when the body is left. A task that fails cancels the body, and its error
    leaves."""
    failure: Exception | None = None
    async with together() as nursery:
        try:
            yield nursery
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def together() -> AsyncIterator[trio.Nursery]:
    """A nursery that is left when all its tasks have ended, with the first error that one of them met."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    """The first leaf of a group that is no cancellation, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_first(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)), leaves[0])
