"""Elementary functions on float and double vectors, emitted as straight-line LLVM text.

Every function takes the `FunctionBuilder` to append to and a value `x` (scalar or vector, any number of
lanes) and returns a value of the same type. LLVM would turn ``llvm.exp`` on a vector into one library
call a lane; these are polynomials over whole vectors. Error bounds are in units in the last place (ulp) of the exact
result, as measured by the sweeps in ``tests/backends/test_math.py``.
"""

from ds_compiler.backends.llvm.math_exp import exp

__all__ = ["exp"]
