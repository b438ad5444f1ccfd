"""Training: from what a run holds to a policy that the arena can seat.

    python -m training.pairs --from-run     outcomes to preference pairs; needs only the base install
    python -m training.sft --from-run       a policy that was taught the winning speeches
    python -m training.dpo --from-run       an adapter that prefers what won to what lost
    python -m training.grpo --from-run      an adapter that earns more: by turns, whole debates, or rows of a file
    python -m training.loop                 play, train, re-enter, play again
    python -m training.adapters list        what was trained

The way down: `speeches` (what was said, and who won with it), `pairs` and `pair_set`; `tokens`, `batches`, `reference`
and `preference` (pairs that share texts, run once each); `policy`, `state`, `session` and `watch` (what a training
starts from, how it is resumed, watched and registered), with `guard`, `checkpoints` and `log`; for GRPO `sources`
(tasks), `practice` and `debates` (what is drawn for them), `turns`, `rubric_rows`, `rewards`, `citations` and
`debate_rewards` (what it earns), `earning`, `scoring` and `company` (who says so), `draws` (the steps and the check)
and `policy_gradient` (the learning); `recipe` and `recipes/` (the numbers); `tiny` (the base that is built here). All
but pairs need the extra `train`.
"""
