"""Training: from what a run holds to an adapter that the arena can seat.

To come: turn-level pairs, SFT and DPO policies, SimPO critics, GRPO with rubric rewards. Imports nothing that a
base install lacks; torch belongs to the extra `train`.
"""
