"""A run of PyTorch as a file that gradxform reads, and a moved run as one that PyTorch loads.

This file is to be copied to where torch is. It needs torch and numpy, and nothing of gradxform:

    python torch_export.py run.pt run.npz --optimizer AdamW
    python torch_export.py moved.npz moved.pt --into run.pt

The first takes a whole checkpoint, a dictionary with the `state_dict()` of a model, of an optimizer and, if there is
one, of a scheduler, and writes weights, state and hyperparameters by the names of the parameters (`.npz` or, with that
package, `.safetensors`; bfloat16 stays bfloat16). gradxform then goes on:

    names = {"renamed": {"*.weight": "*/kernel"}, "layout": {"*/kernel": (1, 0)}}
    found = gx.interop.from_torch("run.npz", None, params, **names)

The second takes what `gx.interop.to_torch(tx, state, params, like="run.npz", ...).save("moved.npz")` wrote.

A checkpoint only numbers its parameters. Their names are in it if the optimizer was given `model.named_parameters()`;
if not, `--names` is a JSON list of them, in the order in which the optimizer got them. A model whose `state_dict()` has
nothing but the parameters of one group needs neither. In a program, `export` and `tensors` do the same.
"""

import argparse
import collections
import json

import numpy as np
import torch

KEYS = {
    "model": ("model", "model_state_dict", "state_dict"),
    "optimizer": ("optimizer", "optimizer_state_dict"),
    "scheduler": ("scheduler", "lr_scheduler", "scheduler_state_dict", "lr_scheduler_state_dict"),
}


def states(optimizer):
    """The arrays of each parameter; bitsandbytes hides its own from FSDP one level down."""
    return {
        number: {slot: x for slot, x in slots.items() if not isinstance(x, dict)}
        | {slot: x for inner in slots.values() if isinstance(inner, dict) for slot, x in inner.items()}
        for number, slots in optimizer["state"].items()
    }


def names_of(model, optimizer, names=None):
    """The names of the parameters in the order in which the optimizer numbers them."""
    groups = optimizer["param_groups"]
    count = sum(len(group["params"]) for group in groups)
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    if names is None and len(groups) == 1 and len(model) == count:
        names = list(model)
    if names is None:
        raise SystemExit(
            f"which of {len(model)} arrays the {count} parameters are has to be said: --names names.json"
        )
    if len(set(names)) != count or not set(names) <= set(model):
        unknown = [name for name in names if name not in model][:5]
        raise SystemExit(f"{len(set(names))} names for {count} parameters; not in the model: {unknown}")
    for number, slots in states(optimizer).items():
        shape = model[names[number]].shape
        for slot in ("exp_avg", "momentum_buffer", "square_avg", "sum", "prev", "exp_inf", "state1"):
            if slots.get(slot) is not None and slots[slot].shape != shape:
                raise SystemExit(
                    f"{names[number]} is {tuple(shape)}, its {slot} {tuple(slots[slot].shape)}: wrong order"
                )
    return list(names)


def export(path, model, optimizer, names, kind, scheduler=None):
    """Writes the `state_dict()` of model, optimizer and scheduler; `kind` is the name of the optimizer's class."""
    tied = shared(model, names)
    tensors = {f"weights/{name}": x for name, x in model.items() if torch.is_tensor(x) and name not in tied}
    for number, slots in states(optimizer).items():
        here = {slot: torch.as_tensor(x) for slot, x in slots.items() if x is not None}
        tensors |= {f"state/{names[number]}/{slot}": x for slot, x in here.items()}
    groups = [
        {k: v for k, v in group.items() if k not in ("params", "param_names")}
        | {"names": [names[i] for i in group["params"]]}
        for group in optimizer["param_groups"]
    ]
    tensors = {key: x.detach().cpu().clone().contiguous() for key, x in tensors.items()}
    data = {
        "format": 1,
        "optimizer": kind,
        "groups": groups,
        "scheduler": scheduler,
        "tied": tied,
        "dtypes": {},
    }
    if str(path).endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(tensors, path, metadata={"torch": json.dumps(data, default=plain)})
        return
    data["dtypes"] = {key: "bfloat16" for key, x in tensors.items() if x.dtype == torch.bfloat16}
    arrays = {
        key: (x.view(torch.uint16) if key in data["dtypes"] else x).numpy() for key, x in tensors.items()
    }
    with open(path, "wb") as file:
        np.savez(file, torch=np.array(json.dumps(data, default=plain)), **arrays)


def shared(model, names):
    """Names of one tensor that has two, such as an embedding that is the head too: to the name that stands for it."""
    owners, tied = {}, {}
    for name in [*names, *(name for name in model if name not in names)]:
        x = model[name]
        if torch.is_tensor(x) and x.numel():
            owner = owners.setdefault((x.data_ptr(), x.dtype, x.shape, x.stride()), name)
            tied |= {} if owner == name else {name: owner}
    return tied


def plain(x):
    """What JSON does not know: a rate that is a tensor."""
    if torch.is_tensor(x) and x.numel() == 1:
        return x.item()
    raise SystemExit(
        f"a {type(x).__name__} in the hyperparameters or the scheduler cannot be written: {str(x)[:80]}"
    )


def tensors(path):
    """What `load_state_dict` of model, optimizer and scheduler take: a dictionary of the three."""
    with np.load(path) as file:
        data = json.loads(str(file["torch"]))
        arrays = {key: torch.from_numpy(file[key].copy()) for key in file.files if key != "torch"}
    arrays |= {key: arrays[key].view(torch.bfloat16) for key in data["dtypes"]}
    names = [name for group in data["groups"] for name in group["names"]]
    state = collections.defaultdict(dict)
    for key, x in arrays.items():
        if key.startswith("state/"):
            name, slot = key.removeprefix("state/").rsplit("/", 1)
            state[names.index(name)][slot] = x
    groups = [
        {
            k: tuple(v)
            if k in ("betas", "etas", "step_sizes", "ns_coefficients", "eps") and isinstance(v, list)
            else v
            for k, v in group.items()
            if k != "names"
        }
        | {"params": [names.index(name) for name in group["names"]]}
        for group in data["groups"]
    ]
    model = {key.removeprefix("weights/"): x for key, x in arrays.items() if key.startswith("weights/")}
    model |= {name: model[owner] for name, owner in data.get("tied", {}).items()}
    scheduler = numbered(data["scheduler"])
    return {
        "model": model,
        "optimizer": {"state": dict(state), "param_groups": groups},
        "scheduler": scheduler,
    }


def numbered(scheduler):
    """A scheduler's state after JSON, which has made texts of the numbers of milestones."""
    if isinstance(scheduler, dict):
        scheduler = {key: numbered(x) for key, x in scheduler.items()}
        if isinstance(scheduler.get("milestones"), dict):
            times = {int(step): n for step, n in scheduler["milestones"].items()}
            scheduler["milestones"] = collections.Counter(times)
    return [numbered(x) for x in scheduler] if isinstance(scheduler, list) else scheduler


def find(checkpoint, part, key):
    """The key of a part of a checkpoint, or None."""
    for one in [key] if key else KEYS[part]:
        if one in checkpoint:
            return one
    if key or part != "scheduler":
        raise SystemExit(
            f"no {part} at {key or ', '.join(KEYS[part])}; the checkpoint has {', '.join(checkpoint)}"
        )
    return None


def main():
    parser = argparse.ArgumentParser(description="moves a run of PyTorch to gradxform and back")
    parser.add_argument("source", help="a checkpoint of torch, or an .npz of gx.interop.to_torch(...).save")
    parser.add_argument("target", help=".npz or .safetensors; on the way back .pt")
    parser.add_argument("--optimizer", help="its class in torch.optim, such as AdamW")
    parser.add_argument(
        "--names", help="a JSON file with the names of the parameters in the optimizer's order"
    )
    parser.add_argument("--into", help="on the way back: the checkpoint whose other entries stay")
    for part in KEYS:
        parser.add_argument(f"--{part}-key", help=f"where the {part} is, if not at {', '.join(KEYS[part])}")
    given = parser.parse_args()
    keys = {part: getattr(given, f"{part}_key") for part in KEYS}
    if given.source.endswith(".npz"):
        whole = torch.load(given.into, weights_only=True, map_location="cpu") if given.into else {}
        for part, state in tensors(given.source).items():
            if state is not None:
                whole[find(whole, part, keys[part]) if given.into else keys[part] or part] = state
        torch.save(whole, given.target)
        return
    if given.optimizer is None:
        raise SystemExit("--optimizer: a checkpoint does not say of which class its optimizer is")
    whole = torch.load(given.source, weights_only=True, map_location="cpu")
    found = {part: find(whole, part, keys[part]) for part in KEYS}
    model, optimizer = whole[found["model"]], whole[found["optimizer"]]
    given_names = None
    if given.names:
        with open(given.names, encoding="utf-8") as file:
            given_names = json.load(file)
    names = names_of(model, optimizer, given_names)
    scheduler = whole[found["scheduler"]] if found["scheduler"] else None
    export(given.target, model, optimizer, names, given.optimizer, scheduler)
    print(f"{given.target}: {given.optimizer} of {len(names)} parameters, {len(model)} arrays of the model")


if __name__ == "__main__":
    main()
