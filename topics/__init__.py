"""Topics: 259 motions, sealed and split by topic into 200 train and 59 test.

    import topics
    train = topics.load("train")            # also "test", "all", "id,id", "my-topics.csv"
    python -m topics verify | stats | show ID

This package imports nothing of ours; everything else may import it.
"""

from topics.catalogue import load
from topics.topic import SIDES, Point, Side, Topic, opposite

__all__ = ["SIDES", "Point", "Side", "Topic", "load", "opposite"]
