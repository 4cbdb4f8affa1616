"""A run moves from PyTorch and to it: `from_torch` and `to_torch`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from .._core.errors import say, short
from .._core.spec import find_factory
from .._core.transform import as_transform
from .._core.tree import view
from . import torch_schedules
from .optax_states import refuse_losses
from .restore import restore_into
from .restored import Restored
from .torch_bits import is_of_bitsandbytes
from .torch_names import Layout, Renamed
from .torch_run import TorchRun, read
from .torch_state import Move, Part


@dataclass(frozen=True)
class FromTorch:
    """What `from_torch` found.

    Attributes:
        transform: the transform that goes on: what was passed, or what the file implies.
        state: its state.
        params: the weights of the file in the structure, layout and dtype of the parameters; None without weights.
        report: of `gx.restore_into`, where a transform was passed; else None.
        notes: what else is to be known: frozen parameters, buffers that were left.
    """

    transform: Any
    state: Any
    params: Any
    report: Restored | None
    notes: tuple[str, ...]


def from_torch(
    saved: Any,
    tx: Any,
    params: Any,
    *,
    optimizer: str | None = None,
    names: Sequence[str] | None = None,
    renamed: Renamed = None,
    layout: Layout = None,
    scheduler: bool = True,
    steps_per_epoch: int = 1,
    step: int | None = None,
) -> FromTorch:
    """The state of a run with PyTorch as the state of a transform, and its weights as parameters.

    torch is not imported. `examples/torch_export.py` writes the file; the arrays of `optimizer.state_dict()` will do.
    SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop, Rprop, Adafactor and Muon, with all of their
    options; of bitsandbytes Adam and AdamW in 8 and 32 bits, whose moments become float32 (with `tx` a
    `gx.lowbit.quantized` they are coded again). The next step is the one that torch would make.

    Args:
        saved: the path of the file (`.npz`, `.safetensors`), a `TorchRun`, or `optimizer.state_dict()` with arrays.
        tx: the transform that goes on, or None for the one that the file implies: its hyperparameters, a group for
            each group that differs (and for parameters that have made fewer steps), the scheduler as a schedule.
        params: the parameters that go on: their structure, shapes and dtypes. What the file has in its weights but in
            no group is frozen.
        optimizer: for a `state_dict`, the name of its class in `torch.optim`, where its options do not tell (Adam and
            AdamW before torch 2.7, bitsandbytes).
        names: for a `state_dict`, the names of its parameters in its order, unless the optimizer was given them.
        renamed: from torch's names to paths: patterns with `*` to what stands for them, such as `{"*.weight":
            "*/kernel"}`, the first that takes a name; or a function. Dots become slashes by themselves.
        layout: how axes move from torch to here: patterns of paths to the axes of `numpy.transpose`, several where
            arrays of several ranks have the name: `{"*/kernel": [(1, 0), (2, 3, 1, 0)]}` for linear layers and
            convolutions. It has to be said wherever a renamed array fits in two ways.
        scheduler: False keeps the rate where it stands, whatever the scheduler of the file.
        steps_per_epoch: how many steps were made between two calls of `scheduler.step()`.
        step: how many steps were made; for schedules of a run with SGD or Muon without a scheduler, which do not count.

    Returns:
        A `FromTorch`, with `transform`, `state`, `params`, `report` and `notes`.

    Raises:
        TypeError, ValueError: for an unknown optimizer or scheduler; names without a parameter, and parameters without
            a name, all of them listed; shapes that do not fit; an array of a parameter that `tx` would lose; a rate
            that is not what the scheduler gives at its position.

    Example:
        >>> import numpy as np, jax.numpy as jnp
        >>> import gradxform as gx
        >>> moments = {"step": np.float32(7), "exp_avg": np.ones((3, 2)), "exp_avg_sq": np.ones((3, 2))}
        >>> group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False}
        >>> saved = {"state": {0: moments}, "param_groups": [group | {"params": [0]}]}
        >>> found = gx.interop.from_torch(
        ...     saved,
        ...     None,
        ...     {"head": {"kernel": jnp.ones((2, 3))}},
        ...     optimizer="AdamW",
        ...     names=["head.weight"],
        ...     renamed={"*.weight": "*/kernel"},
        ...     layout={"*/kernel": (1, 0)},
        ... )
        >>> found.transform, int(found.state[0].count), found.state[0].mu["head"]["kernel"].shape
        (gx.adamw(0.001, weight_decay=0.01), 7, (2, 3))
    """
    who = "gx.interop.from_torch(saved, tx, params)"
    run = read(saved, who, optimizer, names)
    move = Move(run, params, renamed, layout, who)
    position = move.position(steps_per_epoch, step)
    parts = move.parts()
    rates = [part.rate for part in parts]
    if tx is None and scheduler and run.scheduler is not None:
        rates = _schedules(run, parts, steps_per_epoch, position or 0, who)
    elif tx is not None and position is not None:
        rates = _counting(move, parts)
    implied = move.transform(parts, rates)
    new = move.weights()
    state = move.filled(implied, params if new is None else new, parts, position)
    if tx is None:
        return FromTorch(implied, state, new, None, move.notes())
    implied_state = state
    state, report = restore_into(tx, params if new is None else new, implied_state, saved_by=implied)
    refuse_losses(report, params, implied_state, who, *_uneven(move, parts))
    return FromTorch(as_transform(tx, "gx.interop.from_torch(tx)"), state, new, report, move.notes())


def to_torch(
    tx: Any,
    state: Any,
    params: Any,
    like: Any,
    *,
    renamed: Renamed = None,
    layout: Layout = None,
    scheduler: bool = True,
    steps_per_epoch: int = 1,
    step: int = 1,
) -> TorchRun:
    """A run of gradxform or Optax as one of PyTorch: `from_torch` backwards.

    Args:
        tx: the transform that made the state.
        state: its state.
        params: the parameters.
        like: what PyTorch shall go on with, as `saved` of `from_torch`: the file of the run that once came from there,
            or of a new optimizer on a new model. Names, groups, hyperparameters and the scheduler are its own.
        renamed, layout, steps_per_epoch: as in `from_torch`, from torch to here.
        scheduler: False leaves the scheduler and the rates of `like` where they stand.
        step: how many steps were made, where torch counts and this state does not (Adagrad, Adadelta, RMSprop, Rprop
            with a constant rate; torch only asks whether it is the first).

    Returns:
        A `TorchRun`: `save(path)` writes the file that `examples/torch_export.py` loads, `state_dict()` is what
        `load_state_dict` takes once its arrays are tensors.

    Raises:
        TypeError, ValueError: as `from_torch`; if torch's optimizer keeps an array that `state` does not have, or the
            state one that torch's does not keep.

    Example:
        >>> import numpy as np, jax.numpy as jnp
        >>> import gradxform as gx
        >>> params, tx = {"w": jnp.ones(2)}, gx.sgd(0.1, 0.9)
        >>> _, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
        >>> group = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "dampening": 0, "weight_decay": 0, "names": ["w"]}
        >>> run = gx.interop.to_torch(tx, state, params, gx.interop.TorchRun("SGD", (group,), {}))
        >>> run.state_dict()["state"][0]["momentum_buffer"].tolist()
        [1.0, 1.0]
    """
    who = "gx.interop.to_torch(tx, state, params, like)"
    run = read(like, who, argument="like")
    if is_of_bitsandbytes(run):
        fact = f"{who}: like: bitsandbytes' state is read, not written"
        raise ValueError(say(fact, "pass the run of a new torch.optim.AdamW"))
    move = Move(run, params, renamed, layout, who)
    parts = move.parts()
    implied = move.transform(parts, _counting(move, parts))
    there, report = restore_into(implied, params, state, saved_by=tx)
    remedy = "pass as like= the file from which the run once came, whose groups and steps are those of tx"
    refuse_losses(report, params, state, who, remedy)
    paths = view(params).paths
    missing = [row.address for row in report.reset if any(row.address.endswith(f"/{path}") for path in paths)]
    if missing:
        fact = f"{who}: torch's {run.optimizer} keeps what this state does not have: {short(missing)}"
        raise ValueError(say(fact, "pass as like= a run of the optimizer that belongs to tx"))
    arrays, position = move.taken(there, step)
    weights = dict(run.weights)
    for name, place in move.places.items():
        x = place.there(np.asarray(move.params[place.path]))
        weights[name] = x.astype(run.weights[name].dtype) if name in run.weights else x
    moved = replace(run, state=arrays, weights=weights)
    if run.scheduler is None or not scheduler:
        return moved
    return _rescheduled(moved, position, steps_per_epoch, who)


def _uneven(move: Move, parts: Sequence[Part]) -> list[str]:
    """What to do where parameters have made different numbers of steps, which one count of a transform cannot say."""
    if len({part.step for part in parts}) < 2:
        return []
    steps = "; ".join(
        f"{part.step}: {short([move.places[name].path for name in part.names])}" for part in parts
    )
    return [
        f"they have made different numbers of steps ({steps})",
        "a group of its own for each keeps them apart: pass None as tx to see them, or a gx.param_groups",
    ]


def _counting(move: Move, parts: Sequence[Part]) -> list[Any]:
    """Rates that do not change, but count, where they may."""
    constant = find_factory("constant_schedule").call
    return [constant(part.rate) if move.kind.schedules else part.rate for part in parts]


def _schedules(
    run: TorchRun, parts: Sequence[Part], steps_per_epoch: int, position: int, who: str
) -> list[Any]:
    """The scheduler as a schedule for each part, held against the rate at which torch stands."""
    made = [_schedule(run, part, steps_per_epoch, who) for part in parts]
    for part, rate in zip(parts, made, strict=True):
        value = float(rate(position))
        if abs(value - part.rate) > 1e-4 * abs(part.rate) + 1e-6 * abs(part.base):
            fact = f"{who}: torch's rate stands at {part.rate:g}, its scheduler gives {value:g} after {position} steps"
            remedy = "steps_per_epoch= if it is called once an epoch; else pass tx with a schedule of yours"
            raise ValueError(say(fact, remedy))
    return made


def _schedule(run: TorchRun, part: Part, steps_per_epoch: int, who: str) -> Any:
    rate = torch_schedules.schedule(run.scheduler or {}, part.base, who)
    return rate if steps_per_epoch == 1 else lambda count: rate(count // steps_per_epoch)


def _rescheduled(run: TorchRun, position: int, steps_per_epoch: int, who: str) -> TorchRun:
    """The scheduler and the rates of the groups where the schedule of the state stands."""
    epoch = position // steps_per_epoch
    if epoch == int((run.scheduler or {})["last_epoch"]):
        return run
    rates: list[float] = []
    with jax.enable_x64(True):  # torch computes rates in float64, the next one from the last
        for group in run.groups:
            base = float(np.asarray(group.get("initial_lr", group["lr"])))
            rates.append(float(torch_schedules.schedule(run.scheduler or {}, base, who)(epoch)))
    scheduler = torch_schedules.advanced(run.scheduler or {}, epoch, rates)
    groups = tuple(group | {"lr": rate} for group, rate in zip(run.groups, rates, strict=True))
    return replace(run, groups=groups, scheduler=scheduler)
