"""Muon: momentum with its singular values set to 1, for the matrices of a network; AdamW for everything else.

    m_t = beta m_{t-1} + (1 - beta) g_t                                  `mu` in the state
    d_t = beta m_t / (1 - beta^(t+1)) + (1 - beta) g_t / (1 - beta^t)    Nesterov
    d_t = m_t / (1 - beta^t)                                             otherwise
    u_t = U V^T,  U S V^T = d_t                                          by Newton-Schulz, nearly

g is the gradient, t = 1, 2, ... the step. The singular value decomposition is never made: a polynomial of odd degree in
a matrix acts on its singular values, and a few of them, chosen well, bring all of them near 1. See the head of
`_linalg/newton_schulz.py`. A factor for the shape stands behind it, see `scale_by_shape`. Jordan et al., Muon: an
optimizer for hidden layers in neural networks, 2024. Bernstein & Newhouse, Old optimizer, new norm, 2024,
arXiv:2409.20325.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonState

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core import automatic
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import debias, ema
from .._core.transform import GradientTransformation, wrap
from .._linalg.dims import finder, resolved, seen_as
from .._linalg.fold import Fold
from .._linalg.newton_schulz import PRECONDITIONINGS, STANDARD, coefficients, orthogonalise
from .adam import adamw
from .decay import add_decayed_weights, check_decay
from .matrices import Sorted, SortedBody
from .shape import check_convention, normalize_neurons, scale_by_shape


@factory
def scale_by_muon(
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
    ns_dtype: Any = None,
):
    """Momentum, orthogonalised: every direction of a matrix moves by the same amount.

    Use it for matrices only, by `gx.masked` or in `gx.param_groups`; `muon` is the usual recipe.

    **Update**: the lines of this module's head, up to `u_t = U V^T`.

    Args:
        ns_coeffs: the coefficients of the polynomial: a triple for all steps, one for each step, or the name of a set.
            "standard" leaves singular values between 0.68 and 1.16 if they are above 0.005 of the norm; "dion" between
            0.97 and 1.04 from 0.01; "polar_express" (any number of steps) between 0.84 and 1.13 from 0.001, and with
            6 steps between 0.993 and 1.002.
        ns_steps: how many steps, where there is not a triple for each.
        beta: decay of the momentum, in [0, 1).
        eps: added to the norm by which a matrix is divided, in the unit of a gradient.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        nesterov: whether the gradient is looked at once more.
        adaptive: whether the result is multiplied by its inner product with the momentum, the sum of singular values:
            steepest descent under the spectral norm, whose steps shrink with the gradient.
        preconditioning: what brings singular values below 1. "frobenius": the norm. "spectral": the largest singular
            value, by a decomposition, which costs more than all steps. "aol", "schatten": a correction of the norm by
            what the first product shows, nearly free; worth about a step.
        weight_dimension_numbers: which axes of an array are the matrix: `optax.contrib.MuonDimensionNumbers` for all
            leaves, a tree of them or a prefix of one, a function of the parameters that gives such a tree; a plan by
            path, such as `{"*/qkv": MuonDimensionNumbers(0, (1, 2)), "*": None}`, of whose globs and regular
            expressions the first that takes a leaf decides; a function of path and leaf that gives one. None: leaves
            are matrices. `gx.describe` prints what becomes of each leaf.
        ns_dtype: dtype of the factors in matrix products. None: float32, on accelerators too. "bfloat16": as Keller
            Jordan; sums stay in float32.

    State: `optax.contrib.MuonState(count, mu, ns_coeffs)`: one number a parameter; roles count, moment, none. The
    coefficients of the state are the ones that are used.

    Reach: leaf. A stack of layers in one array needs `gx.per_layer` or dimension numbers.

    Returns:
        A transform whose update has singular values of about 1: a spectral norm of 1, not an element of 1.

    Raises:
        ValueError: for a decay outside [0, 1), a negative epsilon, coefficients that are not triples, more triples than
            steps; when parameters arrive, for a leaf that is no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_muon("polar_express", 8)
        >>> g = jnp.array([[3.0, 0.0], [0.0, -0.1]])
        >>> abs(tx.update(g, tx.init(g))[0]).round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Differs from Optax: products without a batch of one (about half the time on CPU), pinned in float32; "aol" and
    "schatten" do not depend on the size of the gradient; arrays without elements pass; names of sets, plans by path
    and functions of path and leaf, `ns_dtype`; explicit axes of a mesh.
    """
    who = "scale_by_muon"
    triples = coefficients(who, ns_coeffs, ns_steps)
    check_number(who, "beta", beta, low=0, high=1, open_high=True)
    check_number(who, "eps", eps, low=0)
    check_flag(who, "nesterov", nesterov)
    check_flag(who, "adaptive", adaptive)
    if preconditioning not in PRECONDITIONINGS:
        known = ", ".join(map(repr, PRECONDITIONINGS))
        raise ValueError(f"gx.{who}(preconditioning={preconditioning!r}): wanted {known}")
    dtype = None if ns_dtype is None else jnp.dtype(ns_dtype)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"gx.{who}(ns_dtype={dtype.name!r}): wanted a floating dtype such as 'bfloat16'")

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        c1 = one / debias(c.beta, c.t)
        if not nesterov:
            return {"cm": c1, "ns": c.state.ns_coeffs}
        cm = c.beta.value / debias(c.beta, c.t + one)
        return {"cm": cm, "cg": c.beta.complement * c1, "ns": c.state.ns_coeffs}

    def rule(dims: Any) -> GradientTransformation:
        find = finder(who, dims)

        def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
            del p
            seen = seen_as(who, dims, find, leaf)
            m = ema(g, s.mu, k.beta)
            d = k.cm * m + k.cg * g if nesterov else k.cm * m
            work = partial(_orthogonal, seen, int(ns_steps), preconditioning, dtype)
            o = automatic.run_cut(work, lambda: automatic.spec_in_type(d), d, k.ns, k.eps)
            return o * jnp.sum((jnp.conj(d) * o).real) if adaptive else o, {"mu": m}

        return leafwise(
            step,
            once=once,
            state=MuonState,
            decays={"beta": beta},
            scalars={"eps": eps},
            dtypes={"mu": mu_dtype},
            fields={"ns_coeffs": lambda: jnp.asarray(triples)},
            sees=lambda leaf: str(seen_as(who, dims, find, leaf)),
            call=who,
        )

    return resolved(who, rule, weight_dimension_numbers)


def _orthogonal(seen: Fold, steps: int, preconditioning: str, dtype: Any, d: Any, ns: Any, eps: Any) -> Any:
    several = ns.reshape(-1, 3)
    triples = [(several[i, 0], several[i, 1], several[i, 2]) for i in range(several.shape[0])]
    triples = triples * steps if ns.ndim == 1 else triples
    o = orthogonalise(seen.matrices(d), triples, eps=eps, preconditioning=preconditioning, dtype=dtype)
    return seen.array(o)


@factory
def muon(
    learning_rate: optax.ScalarOrSchedule,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
    matrices: Any = None,
    ns_dtype: Any = None,
    convention: str | None = None,
    neuron_b2: Any = None,
):
    """Muon for the hidden matrices, AdamW for embeddings, heads, norms and biases.

    **Advice.** Embeddings and the output layer are matrices and should not be orthogonalised: say
    `matrices=gx.matrices(exclude=("*embed*", "head/*"))`; Optax's default takes every array of two axes, and a warning
    says so of those whose names are such. The two parts have rates of different units: 0.02 is usual for Muon (a
    spectral norm), 3e-4 for AdamW, which gets it by `adam_learning_rate`. With `convention="moonshot"` both have
    AdamW's, and a run can be converted by exchanging the optimizer. Fused weights (queries, keys and values in one
    array, heads in one axis) are several matrices: say so by dimension numbers.

    Args:
        learning_rate: a number or a schedule; the spectral norm of a step, up to the factor of the shape. With
            `consistent_rms` c, its root mean square over c.
        ns_coeffs, ns_steps, beta, mu_dtype, nesterov, adaptive, preconditioning, ns_dtype: as in `scale_by_muon`;
            `mu_dtype` and `nesterov` are Adam's too.
        eps: of Muon, and of Adam.
        weight_decay: decay of the matrices per unit of learning rate.
        weight_decay_mask: which of the matrices decay; every form of `gx.masked`. None decays all.
        adam_b1, adam_b2, adam_eps_root, adam_weight_decay: `adamw`'s, for the rest.
        adam_learning_rate: its rate; None is `learning_rate`.
        muon_weight_dimension_numbers: `weight_dimension_numbers` of `scale_by_muon`; a leaf for which they are None is
            AdamW's.
        consistent_rms, convention: as in `scale_by_shape`.
        neuron_b2: `b2` of `normalize_neurons`, which then stands behind `scale_by_muon`: NorMuon. None leaves it out.
        matrices: which leaves are orthogonalised; every form of `gx.masked`. None: those with dimension numbers, or
            without any, the arrays of two axes, not counting one that `gx.per_layer` has declared to count layers.

    Returns:
        Two groups: `chain(scale_by_muon, scale_by_shape, add_decayed_weights, scale_by_learning_rate)` and `adamw`. The
        state is that of `optax.contrib.muon`, unless there is a `neuron_b2`.

    Warns:
        UserWarning: when parameters arrive, of embeddings and output layers that are orthogonalised because nobody has
            said which leaves are.

    Example:
        >>> import gradxform as gx
        >>> gx.muon(0.02, adam_learning_rate=3e-4, matrices=gx.matrices(exclude="embed*"))
        gx.muon(0.02, adam_learning_rate=0.0003, matrices=gx.matrices(exclude='embed*'))

    Differs from Optax: as `scale_by_muon` and `adamw`; `matrices`, `convention`, `neuron_b2`; the warning.
    """
    check_rate("muon", learning_rate)
    check_decay("muon", weight_decay)
    other_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    check_number("muon", "adam_learning_rate", other_rate, low=0)
    check_convention("muon", convention, consistent_rms)
    rest = adamw(
        other_rate,
        adam_b1,
        adam_b2,
        eps,
        adam_eps_root,
        mu_dtype,
        adam_weight_decay,
        nesterov=nesterov,
    )

    def groups(dims: Any) -> GradientTransformation:
        first = scale_by_muon(
            ns_coeffs,
            ns_steps,
            beta,
            eps,
            mu_dtype,
            nesterov=nesterov,
            adaptive=adaptive,
            preconditioning=preconditioning,
            weight_dimension_numbers=dims,
            ns_dtype=ns_dtype,
        )
        behind = () if neuron_b2 is None else (normalize_neurons(neuron_b2, weight_dimension_numbers=dims),)
        mine = chain(
            first,
            *behind,
            scale_by_shape(dims, consistent_rms, convention=convention),
            add_decayed_weights(weight_decay, weight_decay_mask),
            scale_by_learning_rate(learning_rate),
        )
        return wrap(SortedBody(Sorted("muon", matrices, dims, ("muon", "adam")), (mine, rest)))

    return resolved("muon", groups, muon_weight_dimension_numbers)
