"""`python tests/driver.py LOG DELAY ...`: `arena.run` in a process of its own, to be killed.

Every question that is put to a contestant is first written to LOG, and takes DELAY seconds, so that a test can
see what was asked for, and can hit a run in its middle.
"""

import asyncio
import os
import sys

from arena.run import main
from arena.simulated import Simulated
from runs.records import Debate, Slot, Speech

log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
delay = float(sys.argv[2])
answer = Simulated.speak


async def speak(self: Simulated, debate: Debate, slot: Slot) -> Speech:
    os.write(log, f"{debate.id} {slot.turn}\n".encode())
    await asyncio.sleep(delay)
    return await answer(self, debate, slot)


Simulated.speak = speak  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main(sys.argv[3:]))
