"""Who said more: by how many words FOR outdid AGAINST in a debate.

    longer(run.debates, run.turns).collect()      # debate_id, longer

One place, because several measures ask for it (`runs/pairings.py`, `runs/bias.py`, `runs/terms.py`) and have to leave
out the same debates: those that are not complete, and those in which some turn's words are not known. To leave out the
turn alone would be to count it as silence.
"""

import polars as pl

from topics import SIDES

Frame = pl.DataFrame | pl.LazyFrame


def longer(debates: Frame, turns: Frame) -> pl.LazyFrame:
    """By how many words FOR said more in each complete debate in which both sides' are known: `debate_id`, `longer`."""
    complete = debates.lazy().filter(status="complete").select("debate_id")
    sides = [pl.col("words").filter(side=side) for side in SIDES]
    apart = {side: words.sum().cast(pl.Int64) for side, words in zip(SIDES, sides, strict=True)}
    return (
        turns.lazy()
        .select("debate_id", "side", pl.col("words").cast(pl.Int64))
        .join(complete, on="debate_id", how="semi")
        .group_by("debate_id")
        .agg(known=pl.col("words").is_not_null().all() & pl.all_horizontal(words.len() > 0 for words in sides), **apart)
        .filter("known")
        .select("debate_id", longer=pl.col("for") - pl.col("against"))
        .sort("debate_id")
    )
