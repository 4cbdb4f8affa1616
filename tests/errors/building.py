"""Misuses that are answered when a transform, schedule, mask or text is made: no parameters have been seen yet."""

import pickle

from .misuse import wrong

SIGNATURE = "its signature is (learning_rate, b1=0.9"
CALLS = "tx.update(grads, state, params)"

ARGUMENTS = [
    wrong(
        "gx.adam(1e-3, b1=1.7)", ValueError, "gx.scale_by_adam(b1=1.7)", "[0, 1)", "got 1.7", "(in gx.adam)"
    ),
    wrong("gx.adam(1e-3, b2=1.0)", ValueError, "gx.scale_by_adam(b2=1.0)", "[0, 1)", "got 1"),
    wrong(
        "setattr(gx.adam(1e-3), 'b1', 0.8)",
        AttributeError,
        "gx.adam(0.001) is a value",
        "b1",
        "another argument",
    ),
    wrong(
        'gx.from_json(\'{"gradxform": 1, "factory": "unnamed", "arguments": {"body": 3}}\')',
        ValueError,
        "from_json",
        "'unnamed'",
        "cannot be read back",
    ),
    wrong(
        'gx.from_json(\'{"gradxform": 1, "factory": "scale", "arguments": {"step_size": {"float": "x"}}}\')',
        ValueError,
        "from_json",
        "is not what gx.to_json writes",
    ),
    wrong("gx.partition", AttributeError, "gradxform has no 'partition'", "gx.param_groups"),
    wrong("gx.inject_hyperparams", AttributeError, "no 'inject_hyperparams'", "gx.tunable"),
    wrong("gx.adam(1e-3, b1=-0.1)", ValueError, "b1=-0.1", "[0, 1)", "got -0.1"),
    wrong(
        "gx.adam(1e-3, b1='0.9')", TypeError, "b1='0.9'", "wanted a number", "got a string", "quotation marks"
    ),
    wrong("gx.adam(1e-3, b1=(0.9, 0.999))", TypeError, "got a tuple", "two arguments, such as b1 and b2"),
    wrong("gx.adam(1e-3, eps=-1)", ValueError, "eps=-1", "of at least 0", "got -1"),
    wrong("gx.adam(1e-3, eps=nan)", ValueError, "eps=nan", "of at least 0", "got nan"),
    wrong("gx.adam(1e-3, eps=inf)", ValueError, "eps=inf", "a finite number", "got inf"),
    wrong("gx.adam(1e-3, mu_dtype='float17')", TypeError, "gx.adam(mu_dtype='float17')", "'bfloat16'"),
    wrong(
        "gx.adam(1e-3, mu_dtype='int32')",
        TypeError,
        "mu cannot be kept as int32",
        "floating dtype",
        "gx.adam",
    ),
    wrong("gx.adam(1e-3, nesterov=1)", TypeError, "nesterov=1", "True or False", "got an int"),
    wrong("gx.adamw(-1e-3)", ValueError, "gx.adamw(learning_rate=-0.001)", "at least 0", "flip_sign=False"),
    wrong("gx.adamw(nan)", ValueError, "gx.adamw(learning_rate=nan)", "at least 0", "got nan"),
    wrong("gx.adamw(inf)", ValueError, "gx.adamw(learning_rate=inf)", "a finite number"),
    wrong("gx.adamw('1e-3')", TypeError, "gx.adamw(learning_rate='1e-3')", "got a string", "quotation marks"),
    wrong("gx.adamw(None)", TypeError, "gx.adamw(learning_rate=None)", "or a schedule", "got None"),
    wrong("gx.adamw(True)", TypeError, "gx.adamw(learning_rate=True)", "wanted a number", "got a boolean"),
    wrong("gx.adamw(jnp.asarray(True))", TypeError, "gx.adamw(learning_rate", "bool[]", "one real number"),
    wrong("gx.adamw(1e-3j)", TypeError, "gx.adamw(learning_rate=", "wanted a number", "got a complex"),
    wrong(
        "gx.adamw(jnp.ones(2))",
        ValueError,
        "gx.adamw(learning_rate=float32[2])",
        "shape (2,)",
        "gx.param_groups",
    ),
    wrong("gx.adamw()", TypeError, "gx.adamw()", "'learning_rate'", SIGNATURE),
    wrong(
        "gx.adamw(gx.scale(1.0))",
        TypeError,
        "gx.adamw(learning_rate=gx.scale(1.0))",
        "a transform",
        "gx.chain",
    ),
    wrong(
        "gx.adamw(gx.warmup_cosine)", TypeError, "gx.warmup_cosine itself", "call it: gx.warmup_cosine(...)"
    ),
    wrong(
        "gx.adamw(optax.linear_schedule)",
        TypeError,
        "step count alone",
        "linear_schedule(init_value",
        "call it first",
    ),
    wrong("gx.adamw(1e-3, weight_decay=-0.1)", ValueError, "gx.adamw(weight_decay=-0.1)", "at least 0"),
    wrong(
        "gx.adamw(1e-3, weight_decay=gx.matrices())",
        TypeError,
        "gx.adamw(weight_decay=",
        "a number or a schedule",
        "a mask",
    ),
    wrong(
        "gx.sgd(1e-3, 'nesterov')",
        TypeError,
        "gx.sgd(momentum='nesterov')",
        "wanted a number",
        "got a string",
    ),
    wrong("gx.sgd(1e-3, momentum=1.0)", ValueError, "gx.sgd(momentum=1.0)", "[0, 1)", "got 1"),
    wrong(
        "gx.sgd(1e-3, 0.9, False, None, 3)", TypeError, "gx.sgd()", "too many positional", "its signature is"
    ),
    wrong("gx.clip(-1.0)", ValueError, "gx.clip(max_delta=-1.0)", "at least 0", "got -1"),
    wrong("gx.clip_by_global_norm(-1.0)", ValueError, "gx.clip_by_global_norm(max_norm=-1.0)", "at least 0"),
    wrong("gx.clip_by_global_norm(nan)", ValueError, "gx.clip_by_global_norm(max_norm=nan)", "got nan"),
    wrong("gx.clip_by_block_rms(0.0)", ValueError, "gx.clip_by_block_rms(threshold=0.0)", "above 0", "got 0"),
    wrong(
        "gx.adaptive_grad_clip(0.1, axis='rows')",
        TypeError,
        "gx.adaptive_grad_clip(axis='rows')",
        "number of an axis",
    ),
    wrong(
        "gx.scale_by_lion(mode='soft')",
        ValueError,
        "gx.scale_by_lion(mode='soft')",
        "'hard', 'smooth', 'refined'",
    ),
    wrong("gx.scale(None)", TypeError, "gx.scale(step_size=None)", "wanted a number", "got None"),
    wrong("gx.scale(inf)", ValueError, "gx.scale(step_size=inf)", "a finite number"),
    wrong(
        "gx.scale_by_schedule(1e-3)",
        TypeError,
        "gx.scale_by_schedule(step_size_fn=0.001)",
        "got a float",
        "gx.scale",
    ),
    wrong(
        "gx.scale_by_learning_rate(1e-3, flip_sign=-1)",
        TypeError,
        "flip_sign=-1",
        "True or False",
        "got an int",
    ),
]

SPELLINGS = [
    wrong(
        "gx.adamw(lr=1e-3)", TypeError, "gx.adamw() has no argument 'lr'", "called learning_rate", SIGNATURE
    ),
    wrong("gx.adamw(params, lr=1e-3)", TypeError, "'lr'", "learning_rate", "built without parameters", CALLS),
    wrong(
        "gx.adamw(list(params.values()), 1e-3)",
        TypeError,
        "got a list",
        "built without parameters",
        "tx.init(params)",
    ),
    wrong(
        "gx.adamw(params)",
        TypeError,
        "gx.adamw(learning_rate=",
        "got a dict",
        "built without parameters",
        CALLS,
    ),
    wrong(
        "gx.adamw(iter(params.values()))", TypeError, "gx.adamw(learning_rate=", "built without parameters"
    ),
    wrong(
        "gx.adam(params=params, learning_rate=1)",
        TypeError,
        "'params'",
        "built without parameters",
        "tx.init",
    ),
    wrong(
        "gx.adamw(1e-3, betas=(0.9, 0.99))", TypeError, "gx.adamw()", "'betas'", "called b1 and b2", SIGNATURE
    ),
    wrong("gx.adam(1e-3, beta_1=0.9)", TypeError, "gx.adam()", "'beta_1'", "called b1", SIGNATURE),
    wrong("gx.adam(1e-3, beta2=0.9)", TypeError, "gx.adam()", "'beta2'", "called b2"),
    wrong("gx.adam(1e-3, epsilon=1e-7)", TypeError, "gx.adam()", "'epsilon'", "called eps"),
    wrong(
        "gx.adam(1e-3, clipnorm=1.0)",
        TypeError,
        "gx.adam()",
        "'clipnorm'",
        "gx.clip_by_global_norm(...) in front",
    ),
    wrong(
        "gx.adam(1e-3, amsgrad=True)",
        TypeError,
        "gx.adam()",
        "'amsgrad'",
        "gx.amsgrad",
    ),
    wrong("gx.adam(1e-3, weight_decay=0.1)", TypeError, "gx.adam()", "gx.adamw", "gx.add_decayed_weights"),
    wrong("gx.sgd(1e-3, weight_decay=0.1)", TypeError, "gx.sgd()", "gx.add_decayed_weights"),
    wrong("gx.rmsprop(1e-3, dampening=0.1)", TypeError, "gx.rmsprop()", "'dampening'", "gx.trace"),
    wrong("gx.rmsprop(1e-3, alpha=0.99)", TypeError, "gx.rmsprop()", "'alpha'", "decay"),
    wrong("gx.rprop(1e-2, etas=(0.5, 1.2))", TypeError, "gx.rprop()", "eta_minus and eta_plus"),
    wrong("gx.rmsprop(1e-3, like='tf')", ValueError, "gx.rmsprop(like='tf')", "'optax', 'torch', 'keras'"),
    wrong("gx.rmsprop(1e-3, decay=1.0)", ValueError, "gx.scale_by_rms(decay=1.0)", "(in gx.rmsprop)"),
    wrong("gx.sgd(0.1, dampening=0.5)", ValueError, "gx.sgd(dampening=0.5)", "momentum=0.9"),
    wrong("gx.rprop(100.0)", ValueError, "gx.rprop(learning_rate=100.0)", "[1e-06, 50]"),
    wrong("gx.rprop(1e-2, eta_plus=0.9)", ValueError, "gx.rprop(eta_plus=0.9)", "above 1"),
    wrong("gx.rprop(gx.warmup_cosine(1.0, 2, 9))", TypeError, "gx.rprop(learning_rate="),
    wrong("gx.radam(1e-3, threshold=3.0)", ValueError, "gx.scale_by_radam(threshold=3.0)", "(in gx.radam)"),
    wrong(
        "gx.nadam(1e-3, momentum_decay=4e-3, eps_root=1e-8)", ValueError, "eps_root", "momentum_decay=0.004"
    ),
    wrong("gx.adafactor(relative_step=True)", ValueError, "gx.adafactor(relative_step=True)", "1e-2"),
    wrong("gx.adafactor(1e-2, momentum=1.0)", ValueError, "gx.adafactor(momentum=1.0)"),
    wrong("gx.adafactor(1e-2, min_dim_size_to_factor=2.5)", TypeError, "min_dim_size_to_factor"),
    wrong(
        "gx.lars(1.0, trust_ratio_mask=gx.matrices(), norm_sum=True)",
        ValueError,
        "gx.lars(norm_sum=True)",
        "both masks must be the same",
    ),
    wrong("gx.lars(1.0, momentum=None)", TypeError, "gx.lars(momentum=None)"),
    wrong("gx.lamb(1e-3, max_norm=0.0)", ValueError, "gx.scale_by_trust_ratio(max_norm=0.0)"),
    wrong("gx.scale_by_adadelta(eps=0.0)", ValueError, "gx.scale_by_adadelta(eps=0.0)", "above 0"),
    wrong("gx.adan(1e-3, proximal=1)", TypeError, "gx.adan(proximal=1)", "True or False"),
    wrong(
        "gx.add_decayed_weights(0.1, coupled=False, proximal_rate=1e-3)",
        ValueError,
        "gx.add_decayed_weights(proximal_rate=0.001)",
        "before the rate",
    ),
    wrong(
        "gx.add_decayed_weights(0.1, proximal_rate=1e-3, cautious=True)",
        ValueError,
        "gx.add_decayed_weights(cautious=True)",
        "choose one",
    ),
    wrong("gx.amsgrad(1e-3, raw_max='yes')", TypeError, "gx.scale_by_amsgrad(raw_max='yes')"),
    wrong(
        "gx.chain(gx.rprop(1e-2), gx.scale_by_learning_rate(1.0))",
        ValueError,
        "the learning rate is applied 2 times",
    ),
    wrong("gx.adam(1e-3, fused=True)", TypeError, "gx.adam()", "'fused'", "jax.jit compiles"),
    wrong("gx.adam(1e-3, decay=1e-6)", TypeError, "gx.adam()", "'decay'", "gx.warmup_cosine"),
    wrong(
        "gx.adam(learning_rat=1e-3)", TypeError, "gx.adam()", "'learning_rat'", "did you mean learning_rate?"
    ),
    wrong(
        "gx.warmup_cosine(1e-3, 10, num_training_steps=100)",
        TypeError,
        "'num_training_steps'",
        "called total_steps",
    ),
    wrong(
        "gx.warmup_cosine(0.0, 1e-3, 100, 1000)",
        TypeError,
        "gx.warmup_cosine()",
        "(peak_value, warmup_steps, total_steps",
    ),
]

FACE = [
    wrong(
        "gx.novograd",
        AttributeError,
        "gradxform has no 'novograd'",
        "optax.novograd works inside our chains",
    ),
    wrong("gx.sophia", AttributeError, "'sophia'", "optax.contrib.sophia works inside our chains"),
    wrong("gx.MultiSteps", AttributeError, "'MultiSteps'", "optax.MultiSteps"),
    wrong(
        "gx.softmax_cross_entropy",
        AttributeError,
        "'softmax_cross_entropy'",
        "optax.softmax_cross_entropy works with it",
    ),
    wrong("gx.adamW", AttributeError, "'adamW'", "did you mean gx.adamw?"),
    wrong("gx.SGD", AttributeError, "'SGD'", "did you mean gx.sgd?"),
    wrong("gx.elementwise", AttributeError, "'elementwise'", "it is gx.build.elementwise"),
    wrong("gx.nonsense", AttributeError, "gradxform has no 'nonsense'", "nor has optax"),
]

CHAINS = [
    wrong(
        "gx.chain(optax.adam)",
        TypeError,
        "gx.chain: link 0",
        "wanted a transform",
        "function adam",
        "call it: adam(...)",
    ),
    wrong(
        "gx.chain(gx.clip(1.0), gx.adam)",
        TypeError,
        "gx.chain: link 1",
        "gx.adam itself",
        "call it: gx.adam(...)",
    ),
    wrong("gx.chain(gx.clip(1.0), gx.warmup_cosine)", TypeError, "link 1", "call it: gx.warmup_cosine(...)"),
    wrong(
        "gx.chain(gx.scale_by_adam(), 1e-3)",
        TypeError,
        "link 1",
        "the number 0.001",
        "gx.scale_by_learning_rate",
    ),
    wrong("gx.chain(None)", TypeError, "gx.chain: link 0", "got None", "gx.identity()"),
    wrong(
        "gx.chain(lambda count: 1e-3)", TypeError, "link 0", "a lambda", "gx.scale_by_learning_rate(schedule)"
    ),
    wrong("gx.chain(gx.Schedule)", TypeError, "link 0", "the class Schedule", "init and update"),
    wrong(
        "gx.chain(gx.scale_by_adam(), gx.matrices())", TypeError, "link 1", "a mask", "gx.masked(tx, mask)"
    ),
    wrong("gx.chain([gx.clip(1.0), gx.adam(1e-3)])", TypeError, "link 0", "got a list", "gx.chain(*links)"),
    wrong("gx.chain(('adam', gx.adam(1e-3)))", TypeError, "link 0", "got a tuple", "gx.named_chain"),
    wrong("gx.chain('adam')", TypeError, "gx.chain: link 0", "got a string", "init and update"),
    wrong(
        "gx.chain(gx.adamw(1e-3), gx.warmup_cosine(1e-3, 10, 100))",
        ValueError,
        "2 times",
        "adamw and rate",
        "keep one",
    ),
    wrong(
        "gx.chain(gx.param_groups({'*': gx.adam(1.0)}), gx.sgd(0.1))",
        ValueError,
        "2 times",
        "param_groups and sgd",
    ),
    wrong(
        "gx.chain(gx.add_decayed_weights(0.1, coupled=False), gx.scale_by_learning_rate(0.1))",
        ValueError,
        "gx.chain: decay",
        "independent of the learning rate",
        "rate behind it",
        "put it behind",
    ),
    wrong(
        "gx.named_chain(gx.adam(1e-3))",
        TypeError,
        "gx.named_chain: argument 0",
        "wanted a pair (name, transform)",
    ),
    wrong(
        "gx.named_chain((gx.adam(1e-3), 'adam'))",
        TypeError,
        "argument 0",
        "(name, transform)",
        "name comes first",
    ),
    wrong(
        "gx.named_chain(('a', gx.clip(1.0)), ('a', gx.adam(1.0)))",
        ValueError,
        "gx.named_chain",
        "unique",
        "'a' twice",
    ),
    wrong(
        "gx.named_chain(('a', gx.adam))", TypeError, "gx.named_chain: the link 'a'", "call it: gx.adam(...)"
    ),
    wrong(
        "gx.GradientTransformation(None, len)",
        TypeError,
        "gx.GradientTransformation(init=None)",
        "a function",
    ),
    wrong("gx.per_layer(optax.adam(1e-3), 'layers/*')", ValueError, "gx.per_layer", "the whole tree"),
    wrong(
        "gx.per_layer('layers/*', gx.adam(1e-3))",
        TypeError,
        "gx.per_layer(stacked=",
        "a glob",
        "transform comes first",
    ),
]

GROUPS = [
    wrong(
        "gx.param_groups([{'params': params, 'lr': 1}])",
        TypeError,
        "gx.param_groups",
        "a mapping",
        "got a list",
        "'*'",
    ),
    wrong("gx.param_groups({})", TypeError, "gx.param_groups(groups)", "a mapping", "an empty one"),
    wrong(
        "gx.param_groups({0: gx.sgd(0.1)})",
        TypeError,
        "gx.param_groups: the key 0",
        "an int",
        "wanted a glob",
    ),
    wrong("gx.param_groups({b'*': gx.sgd(0.1)})", TypeError, "the key b'*'", "a bytes", "wanted a glob"),
    wrong(
        "gx.param_groups({re.compile(b'w'): None})", TypeError, "the key re.compile(b'w')", "wanted a glob"
    ),
    wrong(
        "gx.param_groups({(lambda path: True): None})",
        TypeError,
        "<lambda>(path)",
        "a predicate (path, leaf)",
    ),
    wrong(
        "gx.param_groups({'*': 1e-3})",
        TypeError,
        "the group '*'",
        "wanted a transform",
        "the number 0.001",
        "gx.scale",
    ),
    wrong(
        "gx.param_groups({'*': gx.adam})",
        TypeError,
        "the group '*'",
        "wanted a transform",
        "call it: gx.adam(...)",
    ),
    wrong(
        "gx.param_groups({'*': {'lr': 1e-3}})", TypeError, "the group '*'", "wanted a transform", "got a dict"
    ),
    wrong("gx.param_groups({'*': None}, unused='warn')", ValueError, "unused='warn'", "'error' or 'ignore'"),
]

MASKS = [
    wrong("gx.masked(gx.scale(2.0), None)", TypeError, "gx.masked(mask)", "a tree of booleans", "got None"),
    wrong("gx.masked(gx.scale(2.0))", TypeError, "gx.masked()", "'mask'", "its signature is (inner, mask"),
    wrong("gx.masked(gx.scale(2.0), 1)", TypeError, "gx.masked(mask)", "a tree of booleans", "got 1"),
    wrong(
        "gx.masked(gx.scale, '*')",
        TypeError,
        "gx.masked(inner)",
        "wanted a transform",
        "call it: gx.scale(...)",
    ),
    wrong("gx.masked('*', gx.scale(2.0))", TypeError, "gx.masked(inner, mask)", "transform comes first"),
    wrong(
        "gx.masked(gx.scale(2.0), gx.matrices)", TypeError, "gx.masked(mask)", "gx.matrices itself", "call it"
    ),
    wrong("gx.masked(gx.scale(2.0), lambda: True)", TypeError, "gx.masked(mask)", "got <lambda>()"),
    wrong("gx.adamw(1e-3, mask=0)", TypeError, "gx.add_decayed_weights(mask)", "got 0", "(in gx.adamw)"),
    wrong("gx.freeze(None)", TypeError, "gx.freeze(mask)", "a tree of booleans", "got None"),
    wrong("gx.freeze(gx.adam(1e-3))", TypeError, "gx.freeze(mask)", "a tree of booleans", "got a transform"),
    wrong("gx.matrices(exclude=3)", TypeError, "gx.matrices(exclude=3)", "a glob, a regular expression"),
    wrong(
        "gx.matrices(params)",
        TypeError,
        "gx.matrices()",
        "too many positional",
        "its signature is (*, stacked",
    ),
]

SCHEDULES = [
    wrong(
        "gx.warmup_cosine(1.0, 200, 100)",
        ValueError,
        "gx.warmup_cosine(warmup_steps=200)",
        "total_steps=100",
        "fraction",
    ),
    wrong(
        "gx.warmup_cosine(1.0, -1, 100)",
        ValueError,
        "gx.warmup_cosine(warmup_steps=-1)",
        "at least 0 steps",
        "got -1",
    ),
    wrong(
        "gx.warmup_cosine(1.0, 1.5, 100)",
        ValueError,
        "warmup_steps=1.5",
        "a whole number of steps",
        "fraction",
    ),
    wrong("gx.warmup_cosine(1.0, nan, 100)", ValueError, "warmup_steps=nan", "a whole number of steps"),
    wrong(
        "gx.warmup_cosine(1.0, '10%', 100)",
        TypeError,
        "warmup_steps='10%'",
        "a whole number of steps",
        "got a string",
    ),
    wrong(
        "gx.warmup_cosine(1.0, 0, 0)", ValueError, "gx.warmup_cosine(total_steps=0)", "at least 1", "got 0"
    ),
    wrong("gx.warmup_cosine(nan, 10, 100)", ValueError, "gx.warmup_cosine(peak_value=nan)", "got nan"),
    wrong(
        "gx.warmup_cosine('1e-3', 10, 100)",
        TypeError,
        "peak_value='1e-3'",
        "wanted a number",
        "quotation marks",
    ),
    wrong(
        "gx.warmup_cosine(gx.constant_schedule(1.0), 1, 9)",
        TypeError,
        "peak_value",
        "a number",
        "gx.join_schedules",
    ),
    wrong(
        "gx.wsd(1.0, 60, 100, 50)",
        ValueError,
        "gx.wsd",
        "60 warmup and 50 decay steps",
        "do not fit into 100",
        "shorten",
    ),
    wrong(
        "gx.wsd(1.0, 6, 100, shape='cos')", ValueError, "gx.wsd(shape='cos')", "'linear', 'cosine', 'sqrt'"
    ),
    wrong(
        "gx.linear_schedule(1.0, 0.0, '10')",
        TypeError,
        "transition_steps='10'",
        "got a string",
        "gx.linear_schedule",
    ),
    wrong(
        "gx.cosine_decay_schedule(1.0, 0)", ValueError, "gx.cosine_decay_schedule(decay_steps=0)", "positive"
    ),
    wrong(
        "gx.warmup_cosine_decay_schedule(0.0, 1.0, 9, 9)",
        ValueError,
        "decay_steps=9",
        "counts the warmup",
        "larger",
    ),
    wrong(
        "gx.piecewise_constant_schedule(1.0, [30, 60])",
        TypeError,
        "boundaries_and_scales=[30, 60]",
        "a dictionary",
    ),
    wrong(
        "gx.piecewise_constant_schedule(1.0, {9: -0.5})",
        ValueError,
        "non-negative scale factors",
        "-0.5 at 9",
    ),
    wrong(
        "gx.cosine_onecycle_schedule(1e-3, 100)",
        ValueError,
        "transition_steps=0.001",
        "a whole number of steps",
    ),
    wrong(
        "gx.chain(gx.sgd(0.1), gx.add_decayed_weights(0.1))",
        ValueError,
        "decay",
        "sgd",
        "before the learning rate",
    ),
    wrong("gx.cosine_onecycle_schedule(100, 1.0, pct_start='0.3')", TypeError, "pct_start='0.3'", "a string"),
    wrong("gx.exponential_decay(1.0, 10, 0.5, staircase='no')", TypeError, "staircase='no'", "True or False"),
    wrong("gx.cosine_onecycle_schedule(100, 1.0, div_factor=0)", ValueError, "div_factor=0", "above 0"),
    wrong("gx.inverse_sqrt(1.0, 10, timescale=0)", ValueError, "gx.inverse_sqrt(timescale=0)", "above 0"),
    wrong(
        "gx.cosine_restarts(1.0, 10, multiplier=0.5)", ValueError, "multiplier=0.5", "at least 1", "got 0.5"
    ),
    wrong(
        "gx.join_schedules([gx.constant_schedule(1.0)] * 2, [])",
        ValueError,
        "2 schedules and 0 boundaries",
        "one boundary fewer",
    ),
    wrong(
        "gx.join_schedules([gx.constant_schedule(1.0)] * 3, [20, 10])",
        ValueError,
        "boundaries=[20, 10]",
        "ascending",
    ),
    wrong(
        "gx.join_schedules([gx.constant_schedule(1.0), 0.5], [9])",
        TypeError,
        "number 1 is a float",
        "gx.constant_schedule",
    ),
    wrong(
        "gx.join_schedules([gx.constant_schedule] * 2, [9])",
        TypeError,
        "number 0",
        "call it: gx.constant_schedule(...)",
    ),
    wrong(
        "gx.join_schedules(gx.constant_schedule(1.0), 9)",
        TypeError,
        "gx.join_schedules(schedules",
        "wanted a list",
    ),
]

ADAM = '{"gradxform": 1, "factory": "adam", "arguments": {"learning_rate": %s}}'
TEXT = [
    wrong("gx.from_json('hello')", ValueError, "from_json: not JSON", "'hello'", "gx.to_json(tx) returned"),
    wrong(
        "gx.from_json('config.json')",
        ValueError,
        "from_json: not JSON",
        "'config.json'",
        "not the path of a file",
    ),
    wrong("gx.from_json('[1]')", ValueError, "from_json", "not a gradxform transform", "gx.to_json(tx)"),
    wrong(
        "gx.from_json({'gradxform': 1})", TypeError, "from_json: wanted the text", "got a dict", "json.dumps"
    ),
    wrong("gx.from_json(None)", TypeError, "from_json: wanted the text", "got None"),
    wrong(
        """gx.from_json('{"gradxform": 2, "factory": "adam"}')""",
        ValueError,
        "format 2",
        "reads format 1",
        "newer",
    ),
    wrong(
        """gx.from_json('{"gradxform": 1, "factory": "adagard"}')""",
        ValueError,
        "'adagard'",
        "did you mean 'adagrad'",
    ),
    wrong(
        """gx.from_json('{"gradxform": 1, "factory": "os:system"}')""",
        ValueError,
        "'os:system'",
        "import the module",
    ),
    wrong(
        """gx.from_json('{"gradxform": 1, "factory": "adam"}')""",
        ValueError,
        "gx.adam(...)",
        "'learning_rate'",
    ),
    wrong(f"gx.from_json('{ADAM % '-1'}')", ValueError, "gx.adam(learning_rate=-1)", "at least 0"),
    wrong(
        f"gx.from_json('{ADAM.replace('learning_rate', 'lr') % '1'}')",
        ValueError,
        "'lr'",
        "called learning_rate",
    ),
    wrong(
        f"""gx.from_json('{ADAM % '{"function": "m:halve"}'}')""",
        ValueError,
        "'m:halve'",
        "functions=[halve]",
    ),
    wrong(
        f"""gx.from_json('{ADAM % '{"fraction": [1, 2]}'}')""",
        ValueError,
        "tag 'fraction'",
        "newer gradxform",
    ),
    wrong(
        "gx.to_json(gx.adamw(1e-3, mask=lambda p: p))",
        ValueError,
        "gx.adamw(mask)",
        "<lambda>",
        "cannot be written",
    ),
    wrong(
        "gx.to_json(gx.chain(gx.clip(1.0), optax.adam(1)))",
        ValueError,
        "gx.chain(args)[1]",
        "cannot be written",
    ),
    wrong(
        "gx.to_json(optax.adam(1e-3))", TypeError, "to_json", "no gradxform factory made", "gradxform twin"
    ),
    wrong("gx.to_json(gx.adam)", TypeError, "to_json", "the function adam", "such as gx.adamw(3e-4)"),
    wrong(
        "pickle.dumps(gx.adamw(1e-3, mask=lambda p: p))",
        pickle.PicklingError,
        "gx.adamw(mask)",
        "top of a module",
    ),
]

BUILDING = [*ARGUMENTS, *SPELLINGS, *FACE, *CHAINS, *GROUPS, *MASKS, *SCHEDULES, *TEXT]
