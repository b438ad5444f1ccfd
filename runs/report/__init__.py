"""`python -m runs.report [RUN]`: all that can be read off a run, as one page.

    python -m runs.report                        # report.html in the newest run's folder
    python -m runs.report --format md            # the tables alone, as Markdown
    python -m runs.report --format png           # leaderboard and win matrix, as pictures

The page is one file without a script, without a link to elsewhere, and with a policy that would forbid both: it opens
offline, anywhere, and shows what models said as text. A run that is still going is read as it is. The same run gives
the same page, but for the line with the date.

    __main__     the command; files are written whole or not at all
    page         chapters put together, as a page, as Markdown, or as pictures
    chapters     what stands in which order, and how to read it
    standings    who argues better
    scrutiny     how far to trust that
    ledger       what it took
    samples      which debates are shown in full, and why those
    charts       the pictures
    reading      a run being read; tables, pictures and remarks that are read off it
"""
