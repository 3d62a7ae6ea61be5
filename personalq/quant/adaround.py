"""AdaRound: whether each weight goes up or down is learned (Nagel et al., arXiv 2004.10568). It knows no layers.

    W^ = s clip(floor(W/s) + h(V), qmin, qmax),  h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
    L  = tr(D H D^T) + lambda sum(1 - |2 h(V) - 1|^beta),  D = W^ - W

H = sum x x^T stands for all inputs it was summed over, so the layer's outputs are reconstructed without any inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 500
RATE = 0.05
FREE = 0.2
"""Share of the steps before the second term counts."""
WEIGHT = 10.0
"""lambda, with the first term of each row divided by what rounding to nearest costs, times the number of columns."""
BETAS = (10.0, 2.0)
"""beta at the beginning, when only what is nearly decided is pushed, and at the end."""
STRETCH = (-0.1, 1.1)


def adaround(target: Tensor, step: Tensor, gram: Tensor, limits: tuple[int, int]) -> Tensor:
    """Whole codes [O, k] near the targets, learned by Adam for all rows at once; the arguments of `rounding.Assign`.

    A code is the target's floor or the one above, so no error is passed on by more than one step.
    """
    floor = target.floor()
    nearest = (target.round().clamp(*limits) - target) * step
    lost = ((nearest @ gram) * nearest).sum(1, keepdim=True)
    share = target.shape[1] / lost.clamp_min(torch.finfo(torch.float32).tiny)
    low, high = STRETCH
    hidden = torch.logit(((target - floor) - low) / (high - low)).requires_grad_()
    optimizer = torch.optim.Adam([hidden], lr=RATE)
    for i in range(STEPS):
        up = stretched(hidden)
        error = ((floor + up).clamp(*limits) - target) * step
        slope = (error.detach() @ gram).mul_(2 * share)  # of the first term, by the error
        loss = (slope * error).sum()
        if (done := i / STEPS) >= FREE:
            beta = BETAS[0] + (BETAS[1] - BETAS[0]) * (done - FREE) / (1 - FREE)
            loss = loss + WEIGHT * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (floor + stretched(hidden.detach()).round()).clamp(*limits)


def stretched(hidden: Tensor) -> Tensor:
    """h(V), which reaches 0 and 1."""
    low, high = STRETCH
    return (torch.sigmoid(hidden) * (high - low) + low).clamp(0, 1)
