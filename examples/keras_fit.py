"""`model.fit` of Keras 3 with a gradxform transform: Keras takes no Optax transforms, so 30 lines lend it one.

    python examples/keras_fit.py

`compile(optimizer=...)` wants a `keras.optimizers.Optimizer`. `Transformed` is one whose `apply` is the transform's
`update`: the leaves of the state are Keras variables in it, so `fit`, `save` and `load_model` treat them as their own.
Learning rate, clipping, decay and averages belong into the transform; Keras's own arguments for them are left alone.
The script checks that it ends where a loop of one's own ends, and that a saved run goes on with the same bits.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np

import gradxform as gx

try:
    import keras
except ImportError:
    raise SystemExit("keras_fit.py needs Keras: pip install keras") from None


class Transformed(keras.optimizers.Optimizer):
    """A gradient transformation as an optimizer of Keras; parameters are known by the paths of their variables."""

    def __init__(self, tx, name="transformed", **ignored):
        super().__init__(learning_rate=1.0, name=name)  # the rate is the transform's
        self.tx = tx

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        leaves, self.treedef = jax.tree.flatten(self.tx.init({v.path: v.value for v in variables}))
        self.slots = [
            self.add_variable(leaf.shape, dtype=str(leaf.dtype), name=f"slot_{i}")
            for i, leaf in enumerate(leaves)
        ]
        for slot, leaf in zip(self.slots, leaves, strict=True):
            slot.assign(leaf)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(trainable_variables)
        variables = list(trainable_variables or self._trainable_variables)
        params = {v.path: v.value for v in variables}
        state = jax.tree.unflatten(self.treedef, [slot.value for slot in self.slots])
        given = {v.path: g for v, g in zip(variables, grads, strict=True)}
        updates, state = self.tx.update(given, state, params)
        moved = gx.apply_updates(params, updates)
        for variable in variables:
            variable.assign(moved[variable.path])
        for slot, leaf in zip(self.slots, jax.tree.leaves(state), strict=True):
            slot.assign(leaf)
        self._iterations.assign_add(1)

    def get_config(self):
        return {"tx": gx.to_json(self.tx), "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "tx": gx.from_json(config["tx"])})


def make_model():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(32, "tanh"), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def by_hand(tx, x, y, batch, epochs):
    """The same training as a loop of one's own, as Keras shows it for JAX."""
    model = make_model()
    paths = [v.path for v in model.trainable_variables]
    params = {v.path: v.value for v in model.trainable_variables}
    state = tx.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            predicted, _ = model.stateless_call([params[path] for path in paths], [], x)
            return ((predicted - y) ** 2).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return gx.apply_updates(params, updates), state

    for _ in range(epochs):
        for i in range(0, len(x), batch):
            params, state = step(params, state, x[i : i + batch], y[i : i + batch])
    return [params[path] for path in paths]


def main():
    draws = np.random.default_rng(0)
    x = draws.standard_normal((256, 8)).astype(np.float32)
    y = np.sin(x @ draws.standard_normal((8, 1))).astype(np.float32)
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine(1e-2, 8, 64), mask="*kernel"))
    options = {"batch_size": 32, "shuffle": False, "verbose": 0}

    model = make_model()
    model.compile(optimizer=Transformed(tx), loss="mse")
    losses = model.fit(x, y, epochs=4, **options).history["loss"]
    print("loss of each epoch:", " ".join(f"{value:.4f}" for value in losses))

    path = Path(tempfile.mkdtemp()) / "run.keras"
    model.save(path)
    again = keras.models.load_model(path, custom_objects={"Transformed": Transformed})
    for each in (model, again):
        each.fit(x, y, epochs=4, **options)
    same = all(
        np.array_equal(a.value, b.value) for a, b in zip(model.variables, again.variables, strict=True)
    )
    print("saved, loaded and trained on, with the same bits:", same)

    alone = by_hand(tx, x, y, 32, 8)
    far = max(float(abs(a - v.value).max()) for a, v in zip(alone, model.trainable_variables, strict=True))
    print("as a loop of one's own, within 1e-5:", far < 1e-5)
    return losses, same, far


if __name__ == "__main__":
    main()
