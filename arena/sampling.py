"""Drawing the next token so that the draw belongs to who asks, not to the batch it happens in.

The Gumbel-max trick: the arg max of logit + Gumbel noise is a draw from the softmax. The noise is no state of a
generator but a hash (splitmix64) of the request's seed, the step and the token, so it is the same whoever shares the
batch, on any device, and only for candidates that need any. Logits that differ in their last bits, as products of
other shapes do, then hardly ever change a draw: only where two tokens tie within that.

Dimensions: B rows, V vocabulary, K candidates.
"""

import torch
from torch import Tensor

FEW = 64
"""Candidates that are looked at before the whole vocabulary is."""


def drawn(logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor, seed_B: Tensor, step: int) -> Tensor:
    """The next token of every row, [B]: of the smallest set of likeliest tokens whose mass reaches `top_p`, by lot.

    Temperature 0 takes the likeliest, always; seeds are int64. Raises `ArithmeticError` where logits are not finite.
    """
    highest_B, likeliest_B = logits_BV.max(-1)
    if not highest_B.isfinite().all():
        raise ArithmeticError("the model's logits are not finite")
    if not temperature_B.any():
        return likeliest_B
    scaled_BV = logits_BV / torch.where(temperature_B > 0, temperature_B, 1.0)[:, None]
    few = min(FEW, scaled_BV.shape[1])
    top_BK, ids_BK = scaled_BV.topk(few)
    mass_BK = (top_BK - scaled_BV.logsumexp(-1, keepdim=True)).exp()
    picked_B = _picked(top_BK, ids_BK, mass_BK.cumsum(-1) - mass_BK < top_p_B[:, None], seed_B, step)
    wide = ((mass_BK.sum(-1) < top_p_B) & (temperature_B > 0)).nonzero()[:, 0]  # rows whose set is larger
    if len(wide) and few < scaled_BV.shape[1]:
        picked_B[wide] = _picked(*_sorted(scaled_BV[wide], top_p_B[wide]), seed_B[wide], step)
    return torch.where(temperature_B > 0, picked_B, likeliest_B)


def _sorted(scaled_BV: Tensor, top_p_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens, and which of them belong to the set; unsorted where that is all of them."""
    if bool((top_p_B >= 1).all()):
        ids_V = torch.arange(scaled_BV.shape[1], device=scaled_BV.device)
        return scaled_BV, ids_V.expand_as(scaled_BV), torch.ones_like(scaled_BV, dtype=torch.bool)
    top_BV, ids_BV = scaled_BV.sort(descending=True)
    mass_BV = top_BV.softmax(-1)
    whole_B1 = (top_p_B >= 1)[:, None]
    return top_BV, ids_BV, (mass_BV.cumsum(-1) - mass_BV < top_p_B[:, None]) | whole_B1


def _picked(top_BK: Tensor, ids_BK: Tensor, kept_BK: Tensor, seed_B: Tensor, step: int) -> Tensor:
    score_BK = (top_BK + gumbel(seed_B, step, ids_BK)).masked_fill(~kept_BK, -torch.inf)
    return ids_BK.gather(1, score_BK.argmax(-1, keepdim=True))[:, 0]


def gumbel(seed_B: Tensor, step: int, ids_BK: Tensor) -> Tensor:
    """Standard Gumbel noise [B, K], float32, that depends on a row's seed, the step and the token's id alone.

    -log E with E = -log(1 - u) exponential: a small u, which is what wins, then keeps its relative precision.
    """
    state_B = _mixed(seed_B + _int64((step + 1) * _GOLDEN))
    bits_BK = _mixed(state_B[:, None] + (ids_BK + 1) * _int64(_GOLDEN))
    uniform_BK = _shifted(bits_BK, 11).double().add_(0.5).mul_(2.0**-53).float()
    return -torch.log(-torch.log1p(-uniform_BK))


_GOLDEN = 0x9E3779B97F4A7C15


def _int64(value: int) -> int:
    """`value` modulo 2**64, as the signed number that torch knows."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ _shifted(x, 30)) * _int64(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _int64(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)
