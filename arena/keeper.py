"""The keeper: the process between the arena and a server that it started, so that the server never outlives it.

    python -I arena/keeper.py SECONDS PROGRAM ARGUMENTS...     # started by arena/serving.py, in a session of its own

Its standard input is a pipe of which the arena holds the other end. When that is closed, because the arena is done with
the server or because the arena is gone, in whatever way, the keeper's process group is asked to end (SIGTERM); what is
left of it after so many seconds is ended (SIGKILL), the keeper included. The same with what a server leaves behind
that ends by itself. The keeper stays until nobody is left, so that the server's helpers can put away what they share.

Only what moves to another session, and stays, escapes. The keeper runs by its path and needs nothing but Python, so it
is there at once and stays small.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

LEFT_BEHIND = 5.0
"""Seconds that a server's children have after it."""
_SET_CHILD_SUBREAPER = 36
"""A name of Linux's sys/prctl.h."""


def _end(patience: float) -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(patience)
    os.killpg(0, signal.SIGKILL)


def _end_with_the_arena(patience: float) -> None:
    sys.stdin.buffer.read()
    _end(patience)


def main(program: list[str], patience: float) -> None:
    """Run `program` until it ends or the arena does, which gives it `patience` seconds; then end the whole group."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # a handler, since to ignore a signal would be inherited
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whose parent has gone becomes the keeper's child
    server = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_the_arena, args=[patience], daemon=True).start()
    code = server.wait()
    print(f"the server ended, exit code {code}", flush=True)
    threading.Thread(target=_end, args=[LEFT_BEHIND], daemon=True).start()
    with suppress(ChildProcessError):
        while True:
            os.wait()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[2:], float(sys.argv[1]))
