"""What torch does in the live test: runs models, saves checkpoints, and goes on with what comes back.

    python torch_side.py begin FOLDER CASES.json
    python torch_side.py go_on FOLDER CASES.json

It is run by the interpreter of an environment with torch. `begin` writes for every case the checkpoint before the first
step and after 50 (with `examples/torch_export.py` their export) and the weights after 100; `go_on` loads what gradxform
has made of them, after as many steps as their names say, and writes the weights after 100.
"""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
HALF = 50


def exporter():
    spec = importlib.util.spec_from_file_location("torch_export", ROOT / "examples" / "torch_export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(case):
    """Two layers, with a frozen bias if that is asked for; without biases for Muon."""
    torch.manual_seed(case["seed"])
    sizes, bias = case["sizes"], not case["matrices"]
    layers = [torch.nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(sizes)]
    return torch.nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(layers)})


def loss(net, x, y):
    for i, layer in enumerate(net.values()):
        x = layer(x) if i == 0 else layer(torch.tanh(x))
    return ((x - y) ** 2).mean()


def batches(case):
    draw = np.random.default_rng(case["seed"])
    x = draw.normal(size=(2 * HALF, 16, case["sizes"][0]))
    y = draw.normal(size=(2 * HALF, 16, case["sizes"][-1]))
    dtype = torch.get_default_dtype()
    return torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)


def made(case):
    """Model, optimizer and scheduler; the names as the optimizer got them."""
    net = model(case)
    named = dict(net.named_parameters())
    order = [name for group in case["groups"] for name in group["names"]]
    groups = [
        {k: v for k, v in group.items() if k != "names"}
        | {"params": [named[name] for name in group["names"]]}
        for group in case["groups"]
    ]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in case["options"].items()}
    optimizer = getattr(torch.optim, case["optimizer"])(groups, **options)
    scheduler = schedulers(optimizer, case["scheduler"]) if case["scheduler"] else None
    return net, optimizer, scheduler, order


def schedulers(optimizer, said):
    """`[name, options]`, or a list of those with the steps between them."""
    if said[0] == "SequentialLR":
        parts = [schedulers(optimizer, part) for part in said[1]]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=said[2])
    return getattr(torch.optim.lr_scheduler, said[0])(optimizer, **said[1])


def train(case, net, optimizer, scheduler, steps):
    x, y = batches(case)
    for step in steps:
        optimizer.zero_grad()
        loss(net, x[step], y[step]).backward()
        optimizer.step()
        if scheduler is not None and (step + 1) % case["steps_per_epoch"] == 0:
            scheduler.step()


def whole(net, optimizer, scheduler):
    states = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    return states | ({} if scheduler is None else {"scheduler": scheduler.state_dict()})


def weights(net):
    return {name: x.detach().numpy() for name, x in net.state_dict().items()}


def begin(folder, cases):
    export = exporter().export
    for number, case in enumerate(cases):
        torch.set_default_dtype(getattr(torch, case["dtype"]))
        net, optimizer, scheduler, order = made(case)
        for at, steps in (("start", range(0)), ("half", range(HALF))):
            train(case, net, optimizer, scheduler, steps)
            states = whole(net, optimizer, scheduler)
            torch.save(states, folder / f"{number}-{at}.pt")
            export(
                folder / f"{number}-{at}.npz",
                states["model"],
                states["optimizer"],
                order,
                case["optimizer"],
                states.get("scheduler"),
            )
        train(case, net, optimizer, scheduler, range(HALF, 2 * HALF))
        np.savez(folder / f"{number}-end.npz", **weights(net))


def go_on(folder, cases):
    tensors = exporter().tensors
    for number, case in enumerate(cases):
        torch.set_default_dtype(getattr(torch, case["dtype"]))
        for file in sorted(folder.glob(f"{number}-moved-*.npz")):
            net, optimizer, scheduler, _ = made(case)
            states = tensors(file)
            net.load_state_dict(states["model"])
            optimizer.load_state_dict(states["optimizer"])
            if scheduler is not None:
                scheduler.load_state_dict(states["scheduler"])
            made_steps = int(file.stem.rsplit("-", 1)[1])
            train(case, net, optimizer, scheduler, range(made_steps, 2 * HALF))
            np.savez(folder / file.name.replace("moved", "returned"), **weights(net))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests" / "golden"))
    from plain_muon import install

    install()
    _, what, folder, cases = sys.argv
    {"begin": begin, "go_on": go_on}[what](Path(folder), json.loads(Path(cases).read_text()))
