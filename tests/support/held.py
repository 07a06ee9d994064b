"""Work of threads that a test holds up.

Above: tests of `volume/`. Below: nothing.
Invariant: what is not named goes on at once.
"""

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


class Held:
    """An offload that waits, once `holding`, before each call of the named function, and then makes it or fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holding = False
        self.failure: Exception | None = None
        self.go = trio.Event()

    async def __call__(self, call: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.holding and getattr(getattr(call, "func", call), "__name__", "") == self.name:
            await self.go.wait()
            if self.failure is not None:
                raise self.failure
        return call()
