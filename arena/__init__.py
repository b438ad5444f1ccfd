"""The arena: who debates whom, when, and what it costs.

    python -m arena.run --topics train

One noun a module: `contestants` (the protocol), `simulated` (contestants that cost nothing), `roster`, `format`,
`schedule`, `prompting` (what a contestant is asked), `speech` (from an answer to a turn), `vote` (from what a judge
returned to a vote), `engine` (plays and has judged), `progress`, `run` (the command).
"""
