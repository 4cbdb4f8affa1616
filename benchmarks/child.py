"""One entrant in a process of its own, for `entrants.Process`: `python -m benchmarks.child LIBRARY METHOD TREE`."""

import sys
from functools import partial

from benchmarks.entrants import compiled, serve
from benchmarks.methods import LIBRARIES
from benchmarks.shapes import QUICK, TREES
from benchmarks.trees import tree

if __name__ == "__main__":
    library, method, tree_name = sys.argv[1:]
    shapes = {**TREES, **QUICK}[tree_name]
    serve(compiled(partial(LIBRARIES[library], method), shapes, tree(shapes, 0)))
