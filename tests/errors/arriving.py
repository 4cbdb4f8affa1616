"""Misuses that are answered when parameters, gradients or a state arrive, at trace time where there is a trace."""

from .misuse import wrong

ORDER = "the call is tx.update(updates, state, params)"
CALL = "call tx.update(updates, state, params)"
BROADCAST = "nothing is broadcast"
FIRST = "state = tx.init(params)"

TREES = [
    wrong(
        "tx.update({'w': grads['w']}, state, params)",
        ValueError,
        "gx.adamw",
        "missing in the updates: 'b'",
        ORDER,
    ),
    wrong(
        "tx.update({**grads, 'c': 1.0}, state, params)", ValueError, "missing in the parameters: 'c'", ORDER
    ),
    wrong(
        "tx.update(list(grads.values()), state, params)", ValueError, "gx.adamw", "[*, *]", "'w': *", ORDER
    ),
    wrong(
        "tx.update((1.0, grads), state, params)", ValueError, "the updates, (*, {", "the parameters", ORDER
    ),
    wrong("tx.update(None, state, params)", ValueError, "the updates, None", "the parameters", ORDER),
    wrong(
        "tx.update(lambda: grads, state, params)",
        TypeError,
        "gx.adamw",
        "the only leaf of the updates",
        "a lambda",
    ),
    wrong(
        "gx.sgd(0.1).update(lambda: grads, gx.sgd(0.1).init(params))",
        TypeError,
        "gx.sgd",
        "a lambda",
        "an array",
    ),
    wrong(
        "tx.update({**grads, 'w': jnp.ones((2, 3))}, state, params)",
        ValueError,
        "'w'",
        "(2, 3)",
        "(3, 2)",
        BROADCAST,
    ),
    wrong(
        "tx.update({**grads, 'w': jnp.ones(2)}, state, params)",
        ValueError,
        "'w'",
        "(2,)",
        "(3, 2)",
        BROADCAST,
    ),
    wrong(
        "tx.update({**grads, 'w': 0.5}, state, params)",
        ValueError,
        "gx.adamw",
        "'w'",
        "shape ()",
        "(3, 2)",
        BROADCAST,
    ),
    wrong(
        "tx.update({**grads, 'w': jnp.ones((4, 3, 2))}, state, params)",
        ValueError,
        "'w'",
        "(4, 3, 2)",
        "reduced",
    ),
    wrong(
        "gx.sgd(0.1).update(grads, gx.sgd(0.1).init(params), {**params, 'w': jnp.ones((1, 2))})",
        ValueError,
        "(1, 2)",
    ),
    wrong(
        "gx.scale_by_adam().update(0.5, gx.scale_by_adam().init(params))",
        ValueError,
        "float32[]",
        "the state's mu",
    ),
    wrong(
        "gx.adam(1.0).update({**grads, 'w': 0.5}, gx.adam(1.0).init(params))",
        ValueError,
        "adam: ",
        "'w'",
        "mu",
        BROADCAST,
    ),
    wrong(
        "tx.update({**grads, 'w': 'x'}, state, params)",
        TypeError,
        "gx.adamw",
        "'w' of the updates",
        "a string",
        "array",
    ),
    wrong(
        "tx.update(grads, state, {**params, 'w': None})",
        ValueError,
        "'w'",
        "float32[3, 2]",
        "no parameter",
        "None",
    ),
    wrong(
        "tx.update(jax.tree.map(lambda g: g.astype(int), grads), state, params)",
        TypeError,
        "adam: ",
        "int32[2]",
        "float0",
    ),
    wrong(
        "tx.update(jax.tree.map(lambda g: g > 0, grads), state, params)",
        TypeError,
        "adam: ",
        "bool[2]",
        "gx.masked",
    ),
    wrong(
        "gx.sgd(0.4).update({'w': grads['w'], 'n': jnp.ones(3)}, gx.sgd(0.4).init(mixed), mixed)",
        TypeError,
        "rate: ",
        "'n'",
        "int32[3]",
        "float32[3]",
        "carried, never updated",
        "None (or float0)",
    ),
    wrong(
        "gx.adam(0.4).update({'w': grads['w'], 'n': jnp.ones(3)}, gx.adam(0.4).init(mixed))",
        TypeError,
        "adam: ",
        "'n'",
        "mu is int32[3]",
        "an integer when init was called",
    ),
    wrong(
        "gx.sgd(0.1).update(jax.tree.map(lambda g: jax.lax.complex(g, g), grads), gx.sgd(0.1).init(params), params)",
        TypeError,
        "gx.sgd",
        "'b'",
        "complex64[2]",
        "float32[2]",
        "real",
    ),
]

NEEDS = [
    wrong("tx.update(grads, state)", ValueError, "gx.adamw", "missing params for decay", CALL),
    wrong(
        "gx.add_decayed_weights(0.1).update(grads, ())", ValueError, "gx.add_decayed_weights", "params", CALL
    ),
    wrong(
        "gx.adaptive_grad_clip(0.1).update(grads, ())",
        ValueError,
        "gx.adaptive_grad_clip",
        "missing params",
        CALL,
    ),
    wrong(
        "polyak().update(grads, (), params)", ValueError, "missing value for", "polyak", "params, value=...)"
    ),
    wrong("polyak().update(grads, (), params, valu=1.0)", ValueError, "missing value for", "value=...)"),
    wrong(
        "gx.chain(polyak(), gx.adamw(1e-3)).update(grads, gx.chain(polyak(), gx.adamw(1e-3)).init(params))",
        ValueError,
        "gx.chain",
        "params for",
        "adamw/decay",
        "value for",
        "params, value=...)",
    ),
    wrong(
        "(lambda tx: tx.update(grads, tx.init(params)))(gx.chain(gx.param_groups("
        "{'w': gx.adamw(1.0), '*': gx.chain(gx.adaptive_grad_clip(0.1), gx.sgd(0.1))})))",
        ValueError,
        "gx.chain",
        "missing params for",
        "[w]/adamw/decay, [*]/adaptive_grad_clip",
    ),
    wrong("tx.update(grads)", TypeError, "tx.update()", "'state'"),
    wrong("tx.init()", TypeError, "tx.init()", "'params'"),
]

STATES = [
    wrong(
        "tx.update(grads, params, state)",
        ValueError,
        "gx.adamw",
        "3 states (adam, decay, rate)",
        "'w'",
        "parameters",
        ORDER,
    ),
    wrong(
        "gx.sgd(0.1).update(grads, params, gx.sgd(0.1).init(params))",
        ValueError,
        "gx.sgd",
        "looks like parameters",
        ORDER,
    ),
    wrong("tx.update(grads, params)", ValueError, "gx.adamw", "looks like parameters", ORDER),
    wrong("tx.update(params, grads, state)", ValueError, "gx.adamw", "looks like parameters", ORDER),
    wrong("tx.update(state, grads, params)", ValueError, "gx.adamw", "looks like parameters", ORDER),
    wrong(
        "tx.update(grads, state, state)",
        ValueError,
        "third argument is an optimizer state",
        "the parameters",
        ORDER,
    ),
    wrong(
        "tx.update(grads, None, params)",
        ValueError,
        "gx.adamw",
        "3 states (adam, decay, rate)",
        "got None",
        FIRST,
    ),
    wrong(
        "gx.scale_by_adam().update(grads, None)",
        ValueError,
        "ScaleByAdamState(count, mu, nu)",
        "got None",
        FIRST,
    ),
    wrong("tx.update(grads, (), params)", ValueError, "gx.adamw", "got an empty tuple", FIRST),
    wrong("tx.update(grads, tx, params)", ValueError, "gx.adamw", "got a transform", FIRST),
    wrong("tx.update(grads, tx.init, params)", ValueError, "gx.adamw", "the function init", FIRST),
    wrong(
        "tx.update(grads, tx.update(grads, state, params), params)",
        ValueError,
        "(updates, state)",
        "updates, state =",
    ),
    wrong("tx.update(grads, 'state', params)", ValueError, "gx.adamw", "got a string", ORDER),
    wrong(
        "tx.update(grads, (*state, state[1]), params)",
        ValueError,
        "3 states (adam, decay, rate)",
        "got 4",
        "another chain",
    ),
    wrong(
        "tx.update(grads, state[:1], params)",
        ValueError,
        "3 states",
        "got 1 (ScaleByAdamState)",
        "another chain",
    ),
    wrong(
        "tx.update(grads, gx.sgd(0.1).init(params), params)",
        ValueError,
        "gx.adamw",
        "3 states",
        "got 2",
        "another chain",
    ),
    wrong(
        "tx.update(grads, gx.lion(1.0).init(params), params)",
        ValueError,
        "gx.adamw/adam",
        "ScaleByLionState(count, mu)",
    ),
    wrong(
        "gx.adam(1.0).update(grads, gx.sgd(1.0, 0.9).init(params))",
        ValueError,
        "gx.adam/adam",
        "TraceState(trace)",
        "mu, nu",
    ),
    wrong(
        "gx.adam(1.0).update(grads, optax.amsgrad(1.0).init(params))",
        ValueError,
        "ScaleByAmsgradState",
        "another optimizer",
    ),
    wrong(
        "gx.adam(gx.wsd(1.0, 1, 9)).update(grads, gx.adam(1.0).init(params))",
        ValueError,
        "gx.adam/rate",
        "a schedule",
    ),
    wrong(
        "gx.adam(1.0).update(grads, gx.adam(gx.wsd(1.0, 1, 9)).init(params))",
        ValueError,
        "an empty state",
        "a schedule",
    ),
    wrong(
        "gx.clip(gx.wsd(1.0, 1, 9)).update(grads, ())",
        ValueError,
        "gx.clip",
        "Scheduled(count, inner)",
        "empty tuple",
    ),
    wrong(
        "tx.update({'x': 1.0}, state, {'x': 1.0})",
        ValueError,
        "adam: ",
        "{'x': *}",
        "the state's mu",
        "by tx.init",
    ),
    wrong(
        "tx.update({**grads, 'c': 1.0}, state, {**params, 'c': 1.0})",
        ValueError,
        "adam: ",
        "the state's mu: 'c'",
    ),
    wrong(
        "tx.update({'w': 1.0, 'b': 1.0}, state, {'w': 1.0, 'b': 1.0})",
        ValueError,
        "adam: ",
        "'b'",
        "shape (2,)",
        "tx.init",
    ),
    wrong(
        "tx.update(grads, {'0': state[0]._asdict(), '1': {}}, params)",
        ValueError,
        "a dict with '0', '1'",
        "restore",
    ),
    wrong(
        "gx.scale_by_adam().update(grads, state[0]._asdict())",
        ValueError,
        "'count', 'mu', 'nu'",
        "restore",
        "tx.init",
    ),
    wrong(
        "tx.update(grads, (state[0]._replace(count=1.5), *state[1:]), params)",
        ValueError,
        "adam: ",
        "a float",
        "int32[]",
    ),
    wrong(
        "tx.update(grads, (state[0]._replace(count=None), *state[1:]), params)",
        ValueError,
        "adam: ",
        "count",
        "None",
    ),
    wrong(
        "tx.update(grads, jax.tree.map(lambda x: jnp.stack([x, x]), state), params)",
        ValueError,
        "adam: ",
        "shape",
    ),
    wrong(
        "tx.update(grads, (state[0]._replace(mu=None), *state[1:]), params)",
        ValueError,
        "adam: ",
        "no mu in the state",
    ),
    wrong(
        "gx.named_chain(('a', tx)).update(grads, (state,), params)",
        ValueError,
        "gx.named_chain",
        "names 'a'",
        "a tuple",
    ),
    wrong(
        "gx.named_chain(('a', tx)).update(grads, {'b': state}, params)",
        ValueError,
        "names 'a'",
        "names 'b'",
        "another chain",
    ),
    wrong(
        "gx.named_chain(('a', tx)).update(grads, None, params)", ValueError, "names 'a'", "got None", FIRST
    ),
    wrong(
        "gx.param_groups({'*': tx}).update(grads, state, params)",
        ValueError,
        "PartitionState",
        "a tuple of 3 states",
    ),
    wrong(
        "gx.param_groups({'*': tx}).update(grads, None, params)",
        ValueError,
        "gx.param_groups",
        "got None",
        FIRST,
    ),
    wrong(
        "gx.param_groups({'*': tx}).update(grads, gx.param_groups({'?': tx}).init(params), params)",
        ValueError,
        "gx.param_groups",
        "for the groups '*', got '?'",
        "init was called",
    ),
    wrong(
        "gx.masked(tx, 'w').update(grads, state, params)",
        ValueError,
        "gx.masked",
        "MaskedState(inner_state)",
        "a tuple of 3",
    ),
    wrong(
        "tx.update(grads, gx.masked(tx, 'w').init(params), params)",
        ValueError,
        "gx.adamw",
        "MaskedState(inner_state)",
    ),
    wrong(
        "gx.masked(tx, 'b').update(grads, gx.masked(tx, 'w').init(params), params)",
        ValueError,
        "adam: ",
        "'b'",
        "no mu in the state",
        "masked or absent",
    ),
    wrong(
        "gx.chain(gx.masked(gx.adam(1.0), 'w'), gx.sgd(0.1)).update("
        "grads, gx.chain(gx.masked(gx.adam(1.0), 'w'), gx.sgd(0.1)).init(params))",
        ValueError,
        "gx.chain",
        "applied 2 times to the leaf 'w'",
        "adam/rate and sgd/rate",
        "keep one",
    ),
]

MASKS = [
    wrong(
        "gx.masked(tx, {'w': True}).init(params)",
        ValueError,
        "gx.masked(mask)",
        "missing in the mask: 'b'",
        "structure",
    ),
    wrong(
        "gx.masked(tx, {'w': True, 'b': True, 'c': True}).init(params)",
        ValueError,
        "missing in the parameters: 'c'",
    ),
    wrong(
        "gx.masked(tx, {'w': 'True', 'b': 'False'}).init(params)",
        TypeError,
        "'b' of the mask",
        "'False'",
        "True or False",
    ),
    wrong(
        "gx.masked(tx, {'w': 1, 'b': 0}).init(params)",
        TypeError,
        "gx.masked(mask)",
        "'b'",
        "an int, 0",
        "True or False",
    ),
    wrong(
        "gx.masked(tx, {'w': True, 'b': jnp.ones(2, bool)}).init(params)",
        TypeError,
        "'b'",
        "bool[2]",
        "True or False",
    ),
    wrong(
        "gx.masked(tx, lambda p: None).init(params)",
        TypeError,
        "gx.masked(mask)",
        "gave None",
        "a tree of booleans",
    ),
    wrong("gx.masked(tx, lambda p: 'w').init(params)", TypeError, "gx.masked(mask)", "'w'", "True or False"),
    wrong(
        "gx.masked(tx, lambda path, p: 'no').init(params)", TypeError, "gx.masked(mask)", "gave 'no' for 'b'"
    ),
    wrong(
        "gx.masked(tx, lambda path, p: (p > 0).all()).init(params)",
        TypeError,
        "gx.masked(mask)",
        "'b'",
        "not by values",
    ),
    wrong("gx.freeze({'x': True}).init(params)", ValueError, "gx.freeze(mask)", "{'x': *}", "the parameters"),
    wrong(
        "gx.adamw(1.0, mask={'w': True}).init(params)",
        ValueError,
        "gx.add_decayed_weights(mask)",
        "in the mask: 'b'",
    ),
    wrong(
        "gx.param_groups({'*b': None}).init(params)",
        ValueError,
        "no key takes 'w'",
        "keys are '*b'",
        "last key '*'",
    ),
    wrong(
        "gx.param_groups({'kernel': None, '*': tx}).init(params)",
        ValueError,
        "key 'kernel'",
        "'b', 'w'",
        "unused='ignore'",
    ),
    wrong("gx.param_groups({'*': tx, 'b': None}).init(params)", ValueError, "the key 'b'", "an earlier key"),
    wrong(
        "gx.param_groups({(lambda path, p: 1): None}).init(params)",
        TypeError,
        "gx.param_groups",
        "gave 1 for 'b'",
    ),
    wrong(
        "gx.per_layer(gx.clip_by_block_rms(1.0), '*').update(0.5, ())",
        ValueError,
        "gx.per_layer(stacked='*')",
        "no axis of layers",
    ),
]

SCHEDULES = [
    wrong(
        "gx.sgd(lambda count: jnp.ones(2)).update(grads, gx.sgd(len).init(params))",
        ValueError,
        "learning_rate=",
        "(2,)",
    ),
    wrong(
        "gx.sgd(lambda count: None).update(grads, gx.sgd(len).init(params))",
        TypeError,
        "learning_rate=",
        "gave None",
    ),
    wrong(
        "gx.sgd(lambda count: '0.1').update(grads, gx.sgd(len).init(params))",
        TypeError,
        "learning_rate=",
        "gave '0.1'",
    ),
    wrong(
        "gx.sgd(optax.constant_schedule).update(grads, gx.sgd(len).init(params))",
        TypeError,
        "call what makes the schedule",
    ),
    wrong(
        "jax.jit(gx.sgd(lambda count: 1.0 if count > 3 else 2.0).update)(grads, gx.sgd(len).init(params))",
        TypeError,
        "gx.scale_by_learning_rate(learning_rate=<lambda>)",
        "decides by the value of the step count",
        "jnp.where",
    ),
]

WRITES = [
    wrong(
        "gx.apply_updates(params, {'w': grads['w']})",
        ValueError,
        "gx.apply_updates",
        "missing in the updates: 'b'",
    ),
    wrong(
        "gx.apply_updates({'w': params['w']}, grads)",
        ValueError,
        "missing in the parameters: 'b'",
        "come first",
    ),
    wrong(
        "gx.apply_updates({**params, 'w': jnp.ones((1, 2))}, grads)",
        ValueError,
        "'w'",
        "float32[1, 2]",
        "float32[3, 2]",
    ),
    wrong(
        "gx.apply_updates(params, tx.update(grads, state, params))",
        ValueError,
        "a pair: updates, state = tx.update",
    ),
    wrong(
        "gx.apply_updates(params, list(grads.values()))", ValueError, "[*, *]", "the parameters come first"
    ),
    wrong("gx.apply_updates(params, None)", ValueError, "the updates, None", "the parameters come first"),
    wrong(
        "gx.apply_updates(mixed, {'w': grads['w'], 'n': jnp.ones(3)})",
        TypeError,
        "'n'",
        "int32[3]",
        "by a fraction",
        "None",
    ),
    wrong("gx.apply_updates(params, {**grads, 'w': 'x'})", TypeError, "'w' of the updates", "a string"),
    wrong(
        "gx.apply_updates(params, jax.tree.map(lambda g: jax.lax.complex(g, g), grads))",
        ValueError,
        "'b'",
        "real",
    ),
    wrong(
        "tx.init({**params, 'act': jax.nn.relu})",
        TypeError,
        "'act' of the parameters",
        "the function relu",
        "put None",
    ),
    wrong(
        "tx.init({**params, 'name': 'mlp'})",
        TypeError,
        "scale_by_adam",
        "'name'",
        "a string",
        "an array",
        "put None",
    ),
    wrong("tx.init(lambda x: x)", TypeError, "the only leaf of the parameters", "a lambda", "an array"),
    wrong("tx.init({'rng': jax.random.key(0)})", TypeError, "'rng'", "key<fry>[]", "numbers", "None"),
    wrong("returns('flat').update(grads, ())", ValueError, "float32[6]", "'w'", "wanted shape (3, 2)"),
    wrong("returns('none').update(grads, ())", ValueError, "gave None", "'b'", "wanted shape (2,)"),
    wrong("returns('slot').update(grads, ())", ValueError, "'velocity'", "fields of its state are none"),
    wrong("gx.describe(params, tx)", TypeError, "gx.describe(tx)", "wanted a transform", "got a dict"),
]

ARRIVING = [*TREES, *NEEDS, *STATES, *MASKS, *SCHEDULES, *WRITES]
