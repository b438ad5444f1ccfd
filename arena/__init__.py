"""The arena: who debates whom, when, and what it costs.

    python -m arena.run --topics train

One noun a module: `contestants` (the protocol), `simulated` (contestants that cost nothing), `roster`, `format`,
`schedule`, `speech` (from an answer to a turn), `engine` (plays and has judged), `progress`, `run` (the command).
"""
