"""What a transform, schedule or mask *is*, as data: the factory that was called and its bound arguments.

Everything that must treat an optimizer as a value reads the spec and nothing else: `repr` (text that can be pasted
back), `==` and `hash`, pickling, JSON. A factory is known by name in one registry, so a file can only name what is
registered by the program or by an installed package's entry point; reading a file never imports a path from it.
"""

import difflib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from . import values
from .errors import kind, say, short, signature_text
from .spellings import unknown_argument
from .text import Frozen, argument_text, importable_name, names_dtype, render

ENTRY_POINTS = "gradxform.factories"
_JSON_VERSION = 1
#: Factories of what was made without one: a body on its way, somebody else's closures.
INTERNAL = ("unnamed", "foreign")


@dataclass(frozen=True)
class Example:
    """The example of another factory, for the sample of one that may not import it."""

    of: str


@dataclass(frozen=True, eq=False)
class Factory:
    """A registered function that makes transforms, schedules or masks.

    `name` is its key in files, `text` how a program writes it (`gx.adamw`), `label` the short name that its results
    have as links of a chain (`adam` for `scale_by_adam`).
    """

    name: str
    text: str
    label: str
    call: Callable[..., Any]
    signature: inspect.Signature
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    sample: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def samples(self) -> dict[str, Any]:
        """The values of `sample`, an `Example` made."""
        return {n: _REGISTRY[x.of].example() if isinstance(x, Example) else x for n, x in self.sample.items()}

    def example(self) -> Any:
        """What it makes of its defaults, and of its sample for what has none."""
        given = {name: x for name, x in self.samples().items() if name in self.signature.parameters}
        bound = inspect.BoundArguments(self.signature, given)  # type: ignore[arg-type]
        return self.call(*bound.args, **bound.kwargs)

    def __repr__(self) -> str:
        return f"<factory {self.name}>"


_REGISTRY: dict[str, Factory] = {}


def register(
    function: Callable[..., Any],
    call: Callable[..., Any],
    label: str | None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Factory:
    """Makes the registry's entry for `function`, whose public face is `call`."""
    module, qualname = function.__module__, function.__qualname__
    short = function.__name__
    if module.split(".")[0] == __name__.split(".")[0]:
        room = [part for part in module.split(".")[1:2] if not part.startswith("_")]
        name = ".".join([*room, short])
        text = f"gx.{name}"
    else:
        name = f"{module}:{qualname}"
        text = qualname if module == "__main__" else f"{module}.{qualname}"
    known = short.removeprefix("scale_by_") if label is None else label
    signature = inspect.signature(function)
    for preset, values_of in (presets or {}).items():
        for argument in ("like", *values_of):
            if argument not in signature.parameters:
                raise TypeError(f"{text}: the preset {preset!r} needs an argument {argument!r}")
    rate = {"learning_rate": 1e-3} if _required(signature) == ["learning_rate"] else {}
    factory = Factory(name, text, known, call, signature, dict(presets or {}), dict(sample or rate))
    _REGISTRY[name] = factory
    return factory


def _required(signature: inspect.Signature) -> list[str]:
    return [name for name, p in signature.parameters.items() if p.default is p.empty]


def registered() -> Mapping[str, Factory]:
    """Every factory known to this process, by name."""
    return dict(_REGISTRY)


def _load_entry_points() -> None:
    """Imports what installed packages have declared, so that their factories register themselves."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        importlib.import_module(point.module)


def find_factory(name: str) -> Factory:
    """The factory called `name`; packages that declare the entry point are asked if it is not known yet."""
    if name not in _REGISTRY:
        _load_entry_points()
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            say(
                f"from_json: no factory is registered under {name!r}",
                hint,
                f"import the module that defines it, or install the package that declares it under {ENTRY_POINTS!r}",
            )
        )
    return _REGISTRY[name]


def expand(factory: Factory, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call, with `like="torch"` replaced by the arguments for which it stands."""
    if not factory.presets or "like" not in kwargs:
        return kwargs
    rest = {name: value for name, value in kwargs.items() if name != "like"}
    like, own = kwargs["like"], factory.signature.parameters["like"].default
    if like == own:
        return rest
    if not isinstance(like, str) or like not in factory.presets:
        known = ", ".join(map(repr, (own, *factory.presets)))
        raise ValueError(f"{factory.text}(like={like!r}): wanted one of {known}")
    given = {name for name, _ in zip(factory.signature.parameters, args, strict=False)} | rest.keys()
    if given | {"like"} >= factory.signature.parameters.keys():
        # Nobody writes all arguments: a wrapper has filled in the defaults, and the preset would be lost.
        values_of = ", ".join(f"{name}={short(value)}" for name, value in factory.presets[like].items())
        fact = f"{factory.text}(like={like!r}): every argument is given, so there is nothing to fill in"
        cause = "optax.inject_hyperparams passes all defaults"
        raise ValueError(say(fact, cause, f"instead of like={like!r} write {values_of or 'nothing'}"))
    return {**{name: v for name, v in factory.presets[like].items() if name not in given}, **rest}


def bind(factory: Factory, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults included; a wrong name or number is answered in one sentence."""
    signature = factory.signature
    keyword = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in kwargs:
        if name not in signature.parameters and not keyword:
            first = args[0] if args else None
            raise TypeError(unknown_argument(factory.text, signature, name, first))
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as problem:
        raise TypeError(
            say(f"{factory.text}(): {problem}", f"its signature is {signature_text(signature)}")
        ) from None
    bound.apply_defaults()
    return {name: _as_dtype(factory, name, values.own(value)) for name, value in bound.arguments.items()}


def _as_dtype(factory: Factory, name: str, value: Any) -> Any:
    """Arguments called `...dtype` or `dtype_...` take every spelling of a dtype and keep one."""
    if not names_dtype(name) or value is None:
        return value
    try:
        return values.canonical_dtype(value)
    except TypeError:
        raise TypeError(
            f"{factory.text}({name}={value!r}): not a dtype; pass a name such as 'bfloat16', a jnp dtype, or None"
        ) from None


class Spec:
    """A factory and its bound arguments, compared by value.

    `arguments` are the objects that were passed, containers and NumPy arrays copied, so that nobody changes them later;
    `frozen` is their canonical form, made when first asked for, since it reads concrete arrays from the device.
    """

    __slots__ = ("__dict__", "arguments", "factory")

    def __init__(self, factory: Factory, arguments: Mapping[str, Any]) -> None:
        self.factory = factory
        self.arguments = dict(arguments)

    @cached_property
    def frozen(self) -> tuple[tuple[str, Frozen], ...]:
        return tuple((name, values.freeze(value)) for name, value in self.arguments.items())

    @cached_property
    def traced(self) -> bool:
        """Whether an argument is a value that is being traced: then the spec equals itself only."""
        return any(values.holds_tracer(value) for _, value in self.frozen)

    @cached_property
    def holds_array(self) -> bool:
        """Whether an argument holds an array on a device, or one being traced: then the transform is not interned."""
        return any(map(values.holds_array, self.arguments.values()))

    @cached_property
    def _hash(self) -> int:
        return hash((self.factory.name, self.frozen))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        # The factory itself, not its name: one that is defined again (a cell run twice) makes other transforms.
        if not isinstance(other, Spec) or self.factory is not other.factory:
            return False
        if self.traced or other.traced:
            return False
        return hash(self) == hash(other) and self.frozen == other.frozen

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{self.factory.text}({', '.join(self._shown())})"

    def _shown(self) -> Iterable[str]:
        """The arguments as a programmer would write them: required ones by position, the others if not the default."""
        parameters = self.factory.signature.parameters
        rest = any(p.kind is p.VAR_POSITIONAL and self.arguments.get(name) for name, p in parameters.items())
        for name, frozen in self.frozen:
            parameter = parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                yield from map(values.render, frozen[1])
            elif parameter.kind is parameter.VAR_KEYWORD:
                yield from (f"{key[1]}={render(value)}" for key, value in frozen[1])
            elif parameter.kind is parameter.POSITIONAL_ONLY or (
                parameter.kind is not parameter.KEYWORD_ONLY
                and (rest or parameter.default is parameter.empty)
            ):
                yield argument_text(name, frozen)
            elif parameter.default is parameter.empty or frozen != values.freeze(
                _as_dtype(self.factory, name, parameter.default)
            ):
                yield f"{name}={argument_text(name, frozen)}"

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as `(args, kwargs)` of a call that makes an equal object."""
        bound = inspect.BoundArguments(self.factory.signature, dict(self.arguments))  # type: ignore[arg-type]
        return bound.args, bound.kwargs

    def rebuild(self) -> Any:
        """Calls the factory again."""
        args, kwargs = self.call()
        return self.factory.call(*args, **kwargs)

    def check_picklable(self) -> None:
        for name, frozen in self.frozen:
            try:
                values.check_picklable(frozen)
            except values.NotAValue as problem:
                raise problem.inside(f"{self.factory.text}({name})") from None
        if importable_name(self.factory.call) is None:
            raise values.NotAValue(
                f"{self.factory.text}(...) cannot be pickled",
                remedy="define the factory with `def` at the top of a module",
            )

    def to_json(self) -> dict[str, Any]:
        """The call as JSON data: the factory's name and the arguments that differ from its defaults."""
        written: dict[str, Any] = {}
        for name, frozen in self.frozen:
            default = self.factory.signature.parameters[name].default
            optional = default is not inspect.Parameter.empty
            if optional and frozen == values.freeze(_as_dtype(self.factory, name, default)):
                continue
            try:
                written[name] = values.encode(frozen)
            except values.NotAValue as problem:
                raise problem.inside(f"{self.factory.text}({name})") from None
        return {"factory": self.factory.name, "arguments": written}


def to_json(value: Any) -> str:
    """A transform, schedule or mask as JSON text that `from_json` reads back into an equal one.

    Args:
        value: anything made by a registered factory: `gx.adamw(3e-4)`, `gx.warmup_cosine(...)`, `gx.matrices()`.

    Raises:
        ValueError: if an argument has no value of its own (a lambda, a closure, an array being traced, an Optax
            transform); the message says which.

    Example:
        >>> import gradxform as gx
        >>> gx.to_json(gx.clip_by_global_norm(1.0))
        '{"gradxform": 1, "factory": "clip_by_global_norm", "arguments": {"max_norm": 1.0}}'
    """
    spec = getattr(value, "spec", None)
    if not isinstance(spec, Spec):
        foreign = "an Optax transform is a closure and has no text: use its gradxform twin"
        remedy = (
            foreign
            if hasattr(value, "update")
            else "pass a transform, schedule or mask, such as gx.adamw(3e-4)"
        )
        raise TypeError(say(f"to_json: got {kind(value)}, which no gradxform factory made", remedy))
    return json.dumps({"gradxform": _JSON_VERSION, **spec.to_json()})


def from_json(text: str | bytes, functions: Iterable[Callable[..., Any]] = ()) -> Any:
    """The transform, schedule or mask that `to_json` wrote.

    Only registered factories are called: gradxform's own, those whose module the program has imported, and those that
    installed packages declare under the entry point group `gradxform.factories`. The text never makes Python import
    anything it names.

    Args:
        text: what `to_json` returned, or the same data in a file.
        functions: functions that the text may name as arguments (predicates, schedules of your own).

    Raises:
        ValueError: for text that is not ours, a version from the future, or a factory or function that is not known.

    Example:
        >>> import gradxform as gx
        >>> gx.from_json(gx.to_json(gx.adamw(3e-4))) == gx.adamw(3e-4)
        True
    """
    if not isinstance(text, str | bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "json.dumps(...) of data that has been read already, Path(...).read_text() of a file"
        raise TypeError(
            say(f"from_json: wanted the text that gx.to_json(tx) returned, got {kind(text)}", hint)
        )
    try:
        data = json.loads(text)
    except json.JSONDecodeError as problem:
        hint = "pass the text that gx.to_json(tx) returned, not the path of a file"
        raise ValueError(say(f"from_json: not JSON ({problem}), got {short(text)}", hint)) from None
    if not isinstance(data, dict) or "gradxform" not in data or "factory" not in data:
        raise ValueError("from_json: JSON, but not a gradxform transform; pass what gx.to_json(tx) returned")
    if data["gradxform"] != _JSON_VERSION:
        raise ValueError(
            f"from_json: written in format {data['gradxform']!r}, this gradxform reads format {_JSON_VERSION}; "
            "install a newer gradxform"
        )
    allowed = {name: fn for fn in functions if (name := importable_name(fn)) is not None}
    return _from_data(data, allowed)


def _from_data(data: Mapping[str, Any], functions: Mapping[str, Any]) -> Any:
    called, written = data["factory"], data.get("arguments", {})
    if not isinstance(called, str) or not isinstance(written, dict):
        raise ValueError(
            "from_json: wanted a factory's name and arguments by name; pass what gx.to_json(tx) returned"
        )
    factory = find_factory(called)
    if called in INTERNAL:
        raise ValueError(
            f"from_json: {called!r} stands for what has no text of its own, and cannot be read back"
        )
    arguments: dict[str, Any] = {}
    for name, value in written.items():
        if name not in factory.signature.parameters:
            raise ValueError(f"from_json: {unknown_argument(factory.text, factory.signature, name)}")
        arguments[name] = values.decode(value, lambda inner: _from_data(inner, functions), functions)
    full: dict[str, Any] = {}
    for name, parameter in factory.signature.parameters.items():
        optional = parameter.default is not parameter.empty
        if name in arguments:
            full[name] = arguments[name]
        elif optional:
            if "like" not in arguments:  # else the call has the values, by its preset
                full[name] = parameter.default
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"from_json: {factory.text}(...) lacks its argument {name!r}")
    return Spec(factory, full).rebuild()


def rebuild(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a pickle calls in the other process."""
    return factory(*args, **kwargs)


def reduce_for_pickle(value: Any, spec: Spec) -> tuple[Any, ...]:
    """The `__reduce__` of everything that has a spec."""
    import pickle

    try:
        spec.check_picklable()
    except values.NotAValue as problem:
        raise pickle.PicklingError(str(problem)) from None
    args, kwargs = spec.call()
    return rebuild, (spec.factory.call, args, kwargs)
