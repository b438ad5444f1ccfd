"""The arena: who debates whom, when, and what it costs.

    python -m arena.run --topics train

One noun a module. Playing: `run` (the command), `plan` (what it would cost), `engine` (plays and has judged),
`schedule`, `format`, `progress`; `prompting` (what a contestant is asked), `speech` (from an answer to a turn), `vote`
(from what a judge returned to a vote). Contestants, by the protocol in `contestants`, named in a `roster`: `simulated`
(at no cost); `local` (a model in this process: `models`, `worker`, `generate`, `sampling`, `canary`); `remote` (a model
at one of the `endpoints`: a `line` to it, through its `gate`, by the `client`; `serving`, `served`, `keeper` for a vLLM
of the arena's own). `simulate` is an endpoint that costs nothing.
"""
