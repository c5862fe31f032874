"""Models that are wrong, each in one way, with what the error must say."""

from tests.faults import graphs, nodes, tensors
from tests.faults.parts import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "graphs", "nodes", "tensors"]
