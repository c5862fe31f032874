"""PyTorch graphs to IR.

In:   an FX graph of ATen operators, as torch.export and AOTAutograd make (and `decompositions` simplifies).
Out:  `Imported`: a module, and how its inputs and outputs correspond to the graph's.
Read: `importer` (walks the graph), `registry` (`@aten`), then a family in `operators`.
"""

from ds_compiler.frontends.torch.decompositions import decompositions
from ds_compiler.frontends.torch.importer import Imported, import_graph, supported

__all__ = ["Imported", "decompositions", "import_graph", "supported"]
