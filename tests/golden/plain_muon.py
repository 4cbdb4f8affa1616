"""torch's Muon in the precision of its gradients: torch itself rounds to bfloat16, which no bound could see through."""

from typing import Any

import torch


def orthogonal(grad: Any, coefficients: Any, steps: int, eps: float) -> Any:
    """torch's iteration in the precision of the gradient; torch itself rounds to bfloat16."""
    a, b, c = coefficients
    x = grad.T if grad.shape[0] > grad.shape[1] else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.shape[0] > grad.shape[1] else x


def install() -> None:
    """From here on torch.optim.Muon works with it; torch before 2.9 has none."""
    if hasattr(torch.optim, "Muon"):
        import torch.optim._muon as muon

        muon._zeropower_via_newtonschulz = orthogonal
