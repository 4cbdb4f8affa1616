"""NorMuon: Muon whose orthogonal update is brought to one size for every neuron.

    o_t = U V^T                                              Muon's update, see `scale_by_muon`
    v_t = b2 v_{t-1} + (1 - b2) mean(o_t^2)                  a number for each neuron
    u_t = o_t / (sqrt(v_t) + eps)                            and then |o_t| / |u_t| times that
    u_t <- 0.2 sqrt(max(fan_in, fan_out)) u_t

Orthogonal rows have one length, but where a matrix has more neurons than inputs the neurons are no such rows, and some
move much more than others. Li et al., NorMuon: making Muon more efficient and scalable, 2025, arXiv:2510.05491.
"""

from typing import Any

import optax

from .._combine.plain import check_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._linalg.newton_schulz import STANDARD
from .muon import muon


@factory
def normuon(
    learning_rate: optax.ScalarOrSchedule,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    convention: str = "moonshot",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.95,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = None,
    matrices: Any = None,
    ns_dtype: Any = None,
):
    """NorMuon for the hidden matrices, AdamW for embeddings, heads, norms and biases.

    **Advice.** AdamW's rate and decay, which the convention "moonshot" makes the same for both parts. Say which leaves
    are hidden matrices, as for `muon`.

    Args:
        learning_rate: a number or a schedule; with "moonshot" five times the root mean square of a step.
        ns_coeffs, ns_steps, beta, mu_dtype, nesterov, ns_dtype: as in `scale_by_muon`; `mu_dtype` and `nesterov` are
            Adam's too.
        b2: decay of a neuron's mean square, in [0, 1); `eps` is added to its root, and is Muon's and Adam's too.
        weight_decay: decay of the matrices per unit of learning rate.
        weight_decay_mask: which of the matrices decay; every form of `gx.masked`. None decays all.
        convention: the factor of a shape, as in `scale_by_shape`.
        adam_b1, adam_b2, adam_weight_decay, adam_learning_rate: `adamw`'s, for the rest; no rate is `learning_rate`.
        weight_dimension_numbers, matrices: which leaves are orthogonalised, and as what, as in `muon`.

    Returns:
        `muon(..., neuron_b2=b2, convention=convention)`.

    Example:
        >>> import gradxform as gx
        >>> gx.normuon(1e-3, weight_decay=0.1, matrices=gx.matrices(exclude="embed*"))
        gx.normuon(0.001, weight_decay=0.1, matrices=gx.matrices(exclude='embed*'))
    """
    check_rate("normuon", learning_rate)
    check_number("normuon", "b2", b2, low=0, high=1, open_high=True)
    return muon(
        learning_rate,
        ns_coeffs,
        ns_steps,
        beta,
        eps,
        weight_decay,
        weight_decay_mask,
        mu_dtype,
        nesterov=nesterov,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_weight_decay=adam_weight_decay,
        adam_learning_rate=adam_learning_rate,
        muon_weight_dimension_numbers=weight_dimension_numbers,
        matrices=matrices,
        ns_dtype=ns_dtype,
        convention=convention,
        neuron_b2=b2,
    )
