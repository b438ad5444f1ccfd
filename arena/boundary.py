"""Where a contestant's or a judge's code ends and the engine's begins: whose an error is, and how it is worded."""

import asyncio

from arena.contestants import SpeakFailed, Unavailable
from arena.speech import presentable
from judges.asking import NoReply, NotNow
from topics.errors import one_line


def ours(error: BaseException) -> bool:
    """Whether an error was meant for the engine, and did not come out of the contestant or judge that was asked."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)


def in_words(error: BaseException) -> str:
    """One bounded line; of an unforeseen error, its type as well."""
    try:
        said = str(error)
    except Exception:
        said = "(its message cannot be read)"
    foreseen = isinstance(error, SpeakFailed | Unavailable | NoReply | NotNow)
    return presentable(one_line(said if foreseen else f"{type(error).__name__}: {said}"))
