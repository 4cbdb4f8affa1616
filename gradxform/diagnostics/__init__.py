"""Looking at optimizers: what they are and what they cost."""

from .describe import describe as describe
from .memory import memory as memory
