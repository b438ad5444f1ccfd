"""Training: from what a run holds to an adapter that the arena can seat.

    python -m training.pairs --from-run

`pairs` turns outcomes into preference pairs, `pair_set` is what they are on disk. To come: SFT and DPO policies, SimPO
critics, GRPO with rubric rewards. Needs nothing that a base install lacks; torch will belong to an extra, `train`.
"""
