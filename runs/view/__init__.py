"""`python -m runs.view [RUN]`: a run as a local web page, live while it goes on, with blind ballots for people.

    python -m runs.view                          # the newest run, at http://127.0.0.1:8700/
    python -m runs.view RUN --name ann           # and ann judges it, at /judge
    python -m runs.view --host 0.0.0.0           # for others as well; prints the token that they need

From code, in a thread of its own, on a free port:

    with serve(Settings(run=str(folder), port=0)) as url: ...

It reads what `runs.load` reads and writes nothing but votes.

    __main__     the command
    server       who may ask at all, by `Guard`, before anything else is done; the parts put together
    watch        the tables, kept fresh while a run goes on
    stored       a run's rows by key: what was said in a debate
    pages        what is shown, at which address
    filters      which debates are listed
    lengths      standings with the length held equal
    search       full text
    booth        ballots, and votes that come in

Who may ask:

1. It listens on 127.0.0.1. Any other address takes a token, which every request must bear, in a cookie that the first
   one sets, or as `Authorization: Bearer`.
2. The `Host` of a request must be a name that this server has: a page elsewhere whose name suddenly means 127.0.0.1
   gets nothing.
3. A POST must come from a page of ours: its `Origin` and `Sec-Fetch-Site` say so, and its form carries what only our
   forms know.
4. No page runs anything but two files of ours, loads anything from elsewhere, or stands in a frame.
"""

from runs.view.server import Settings, serve

__all__ = ["Settings", "serve"]
