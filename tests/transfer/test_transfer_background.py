"""Nurseries whose errors leave as they are."""

import pytest
import trio

from infinitfs.transfer.background import background, together


async def fail() -> None:
    raise ValueError("as planned")


@pytest.mark.parametrize("nursery_of", [background, together])
async def test_the_error_of_a_task_leaves_as_itself_and_ends_the_body(nursery_of: object) -> None:
    with pytest.raises(ValueError, match="as planned"):
        async with nursery_of() as nursery:  # type: ignore[operator]
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_what_is_in_the_background_ends_with_the_body() -> None:
    async with background() as nursery:
        nursery.start_soon(trio.sleep_forever)
    with pytest.raises(KeyError):
        async with background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError


async def test_who_is_cancelled_is_no_failure() -> None:
    with trio.move_on_after(0) as scope:
        async with background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
