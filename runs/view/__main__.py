"""`python -m runs.view`: the command; see `runs/view/__init__.py`."""

import platform
import shlex
import signal
import sys
import threading

from runs.settings import parse
from runs.view.server import SWITCH_S, Settings, serve
from topics.errors import command


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    stop = threading.Event()
    sys.setswitchinterval(SWITCH_S)
    with serve(settings) as url:

        def told(number: int, _: object) -> None:
            stop.set()
            signal.signal(number, signal.SIG_DFL)  # once more, and it ends at once: the journal has every vote

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, told)
        if settings.host in ("0.0.0.0", "::") and (name := platform.node()):  # which is no address that others can open
            url = url.replace("//0.0.0.0:", f"//{name}:").replace("//[::]:", f"//{name}:")
        print(f"{shlex.quote(url) if '?' in url else url}  (Ctrl-C to stop)", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
