"""Runs slow work in a thread of its own, so that the streams to the agent stay alive meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, or the error that it raised.

    Unlike asyncio.to_thread, the thread is a daemon: a process that is told to stop need not wait until a volume is
    resampled or a step is over.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as fault:  # noqa: BLE001 - handed to the waiter, who decides
            error = fault
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name="work", daemon=True).start()
    return await done
