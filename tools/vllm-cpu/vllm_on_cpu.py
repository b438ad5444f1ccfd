"""Two cures for vLLM 0.32.0 on a CPU, as a plugin that vLLM loads in each of its processes.

1.  In a batch, requests to the base are marked with adapter -1, which indexing takes for the last one: they are
    answered by somebody else's weights, without a word. Their rows are emptied before an adapter's second matrix is
    laid on, so nothing is added to what the base says.
2.  A prompt that is read in several pieces draws a token after each; all but the last are thrown away, and the
    request's own generator is set back by means that only CUDA has: the engine dies. Here such a token is drawn
    without the request's generator, so there is nothing to set back, and the seed gives the same text however the
    prompt was cut.

vLLM 0.33 needs neither.
"""

from functools import wraps

VERSION = "0.32.0"


def cure():
    """What vLLM calls; a second call does nothing."""
    import vllm
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or not vllm.__version__.startswith(VERSION):
        return
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for name in ("bgmv_expand", "bgmv_expand_slice"):
        _replace(name, _nothing_for_the_base, lora_ops, punica_cpu)
    for name in ("_sample", "_bookkeeping_sync"):
        _replace(name, _thrown_away_without_seed, GPUModelRunner)


def _replace(name, cured, *places):
    function = getattr(places[0], name)
    if not hasattr(function, "__wrapped__"):
        for place in places:
            setattr(place, name, wraps(function)(cured(function)))


def _nothing_for_the_base(expand):
    """`inputs` are [rows, rank], `adapters` [rows] with -1 for none."""

    def cured(inputs, weights, output, adapters, *more, **named):
        return expand(inputs.masked_fill((adapters < 0)[:, None], 0), weights, output, adapters, *more, **named)

    return cured


def _thrown_away_without_seed(method):
    """Hide the generators of those requests of which more of the prompt is to come."""

    def cured(self, *more, **named):
        generators = self.input_batch.generators
        unfinished = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0].tolist()
        hidden = {row: generators.pop(row) for row in unfinished if row in generators}
        try:
            return method(self, *more, **named)
        finally:
            generators.update(hidden)

    return cured
