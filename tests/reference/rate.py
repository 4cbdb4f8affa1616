"""Multiplication by a number: constant, scheduled, or the learning rate with its sign."""

from dataclasses import dataclass

from .scalars import Array, Hyper, State, advance, count_of, counter, hyper


@dataclass(frozen=True)
class Scale:
    """u = c g."""

    step_size: Hyper

    def init(self, p: Array) -> State:
        del p
        return counter(self.step_size)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        return advance(state), hyper(self.step_size, count_of(state)) * g


class ScaleBySchedule(Scale):
    """u = s(count) g, the count being 0 at the first step."""


@dataclass(frozen=True)
class ScaleByLearningRate:
    """u = -eta g: the one place where uphill turns to downhill. The first step reads a scheduled eta at count 0."""

    learning_rate: Hyper
    flip_sign: bool = True

    def init(self, p: Array) -> State:
        del p
        return counter(self.learning_rate)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        eta = hyper(self.learning_rate, count_of(state))
        return advance(state), (-eta if self.flip_sign else eta) * g
