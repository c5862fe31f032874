"""`TracedArray`: what stands for an array while a function is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias, TypeGuard

import numpy as np

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.dtypes import element_type, name_of, promote, weak_type
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.places import here
from ds_compiler.ir import Dim, DType, Expr, TensorType, Value

if TYPE_CHECKING:
    from types import ModuleType

    from ds_compiler.frontends.trace.indexing import Updater
    from ds_compiler.frontends.trace.number import Number

ArrayLike: TypeAlias = "TracedArray | np.ndarray[Any, Any] | np.generic | bool | int | float | Expr"

_CONTROL = "use ds.where to choose elements, ds.cond to choose code, ds.while_loop or ds.scan to repeat it"


class TracedArray:
    """An array whose elements only running the program tells; its shape and element type are known.

    It follows the Python array API standard: operators, indexing, ``x.shape``, ``x.T`` … An operation on it adds
    operations to the program. It cannot be changed in place: ``x.at[i].set(y)`` gives a changed copy.
    """

    __slots__ = ("_scope", "_value", "made")
    __array_priority__ = 1000
    is_number: ClassVar[bool] = False

    def __init__(self, value: Value) -> None:
        self._value = value
        self._scope = current().scope
        self.made = here()

    def read(self) -> Value:
        """The IR value, as the code being traced now sees it.

        Raises:
            TraceError: the function that made it has ended.
        """
        return current().readable(self._value, self._scope, str(self.made))

    # -- what is known ------------------------------------------------------------------------------
    @property
    def type(self) -> TensorType:
        return self._value.type

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Sizes; an open one is an expression over symbols that can be calculated with."""
        return self.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.type.dtype.numpy

    @property
    def ndim(self) -> int:
        return self.type.rank

    @property
    def size(self) -> Dim:
        return self.type.elements

    @property
    def device(self) -> str:
        return "cpu"

    def to_device(self, device: str, /, *, stream: object = None) -> TracedArray:
        if device != "cpu":
            raise located(f"there is no device {device!r} while tracing", help="the target is an option of ds.compile")
        return self

    def __array_namespace__(self, /, *, api_version: str | None = None) -> ModuleType:
        from ds_compiler.frontends.trace import namespace

        return namespace

    def __repr__(self) -> str:
        return f"TracedArray({compose.shown(self.shape)}, {name_of(self.type.dtype)})"

    # -- what only running the program tells -----------------------------------------------------------
    def _unknown(self, what: str, help: str) -> NoReturn:
        raise located(f"{what} of a traced array is not known while the function is traced ({self!r})", help)

    def __bool__(self) -> bool:
        self._unknown("the truth", _CONTROL)

    def __int__(self) -> int:
        self._unknown("the value", "int() needs a number; calculate with the array itself, or use .astype()")

    def __float__(self) -> float:
        self._unknown("the value", "float() needs a number; calculate with the array itself, or use .astype()")

    def __complex__(self) -> complex:
        self._unknown("the value", "complex() needs a number; calculate with the array itself")

    def __index__(self) -> int:
        self._unknown("the value", "index arrays with it (x[i]), count with ds.fori_loop, repeat with ds.scan")

    def __iter__(self) -> NoReturn:
        raise located(
            f"a traced array is not iterated over ({self!r})",
            help="use ds.scan or ds.vmap over its first axis, or ds.numpy.unstack where the size is small and known",
        )

    def __contains__(self, item: object) -> bool:
        self._unknown("membership", "use ds.numpy.any(x == item)")

    def __len__(self) -> int:
        if not self.ndim:
            raise located("len() of an array without axes")
        if isinstance(self.shape[0], int):
            return self.shape[0]
        self._unknown("the length", f"it is the symbolic size {self.shape[0]}; use x.shape[0]")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        self._unknown(
            "the contents",
            "use ds.numpy: asarray([…]) for a list of traced numbers, ds.numpy.take(array, index) for NumPy's",
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        from ds_compiler.frontends.trace import numpy_functions

        return numpy_functions.apply_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from ds_compiler.frontends.trace import numpy_functions

        return numpy_functions.apply_function(function, args, kwargs)

    def item(self) -> NoReturn:
        self._unknown("the value", "return the array from the compiled function and read it there")

    tolist = item

    def __format__(self, spec: str) -> str:
        if not spec:
            return repr(self)
        self._unknown("the value", "return the array and print it outside of the compiled function")

    def __reduce__(self) -> NoReturn:
        self._unknown("the contents", "return the array, and save or copy what the compiled function gives")

    def __copy__(self) -> TracedArray:
        return self

    def __deepcopy__(self, memo: object) -> TracedArray:
        return self

    def __getattr__(self, name: str) -> Any:
        from ds_compiler.frontends.trace import methods

        return methods.find(self, name)

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise located("a traced array is not changed in place", help="x = x.at[index].set(value) gives a changed copy")

    def __round__(self, digits: int = 0) -> TracedArray:
        from ds_compiler.frontends.trace import numpy_functions

        rounded: TracedArray = numpy_functions.FUNCTIONS["round"](self, digits)
        return rounded

    def __hash__(self) -> int:
        return id(self)

    # -- operators, which `operators` makes -----------------------------------------------------------
    if TYPE_CHECKING:

        def __add__(self, other: ArrayLike, /) -> TracedArray: ...
        def __radd__(self, other: ArrayLike, /) -> TracedArray: ...
        def __sub__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rsub__(self, other: ArrayLike, /) -> TracedArray: ...
        def __mul__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rmul__(self, other: ArrayLike, /) -> TracedArray: ...
        def __truediv__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rtruediv__(self, other: ArrayLike, /) -> TracedArray: ...
        def __floordiv__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rfloordiv__(self, other: ArrayLike, /) -> TracedArray: ...
        def __mod__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rmod__(self, other: ArrayLike, /) -> TracedArray: ...
        def __pow__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rpow__(self, other: ArrayLike, /) -> TracedArray: ...
        def __matmul__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rmatmul__(self, other: ArrayLike, /) -> TracedArray: ...
        def __and__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rand__(self, other: ArrayLike, /) -> TracedArray: ...
        def __or__(self, other: ArrayLike, /) -> TracedArray: ...
        def __ror__(self, other: ArrayLike, /) -> TracedArray: ...
        def __xor__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rxor__(self, other: ArrayLike, /) -> TracedArray: ...
        def __lshift__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rlshift__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rshift__(self, other: ArrayLike, /) -> TracedArray: ...
        def __rrshift__(self, other: ArrayLike, /) -> TracedArray: ...
        def __lt__(self, other: ArrayLike, /) -> TracedArray: ...
        def __le__(self, other: ArrayLike, /) -> TracedArray: ...
        def __gt__(self, other: ArrayLike, /) -> TracedArray: ...
        def __ge__(self, other: ArrayLike, /) -> TracedArray: ...
        def __eq__(self, other: ArrayLike, /) -> TracedArray: ...  # type: ignore[override]
        def __ne__(self, other: ArrayLike, /) -> TracedArray: ...  # type: ignore[override]
        def __neg__(self) -> TracedArray: ...
        def __pos__(self) -> TracedArray: ...
        def __abs__(self) -> TracedArray: ...
        def __invert__(self) -> TracedArray: ...

    def __getitem__(self, key: Any, /) -> TracedArray:
        from ds_compiler.frontends.trace import indexing

        return indexing.get(self, key)

    @property
    def at(self) -> Updater:
        """``x.at[index].set(y)``, ``.add``, ``.multiply``, ``.min``, ``.max``: a copy with those elements changed."""
        from ds_compiler.frontends.trace.indexing import Updater

        return Updater(self)

    @property
    def T(self) -> TracedArray:
        """The transpose; of more than two axes, in reverse order."""
        return wrap(compose.transpose(self.read(), tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> TracedArray:
        """The last two axes swapped."""
        if self.ndim < 2:
            raise located(f"mT needs two axes, the array has shape {compose.shown(self.shape)}")
        return wrap(compose.transpose(self.read(), (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2)))

    def astype(self, dtype: Any, /, *, copy: bool = True) -> TracedArray:
        """Each element converted: to bool by ``!= 0``, to integers by truncation."""
        return wrap(compose.cast(self.read(), element_type(dtype)))

    def reshape(self, *shape: Any) -> TracedArray:
        from ds_compiler.frontends.trace import manipulation

        return manipulation.reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)

    def transpose(self, *axes: Any) -> TracedArray:
        from ds_compiler.frontends.trace import manipulation

        if not axes:
            return self.T
        return manipulation.permute_dims(self, axes[0] if isinstance(axes[0], Sequence) else axes)

    def flatten(self) -> TracedArray:
        return self.reshape((-1,))

    ravel = flatten


def wrap(value: Value) -> TracedArray:
    """An array that stands for `value` of the innermost open block."""
    return TracedArray(value)


def is_array(x: object) -> bool:
    """Whether `x` is an array (traced or NumPy's) rather than a Python value, known or not."""
    return isinstance(x, TracedArray | np.ndarray | np.generic) and not is_unknown_number(x)


def is_unknown_number(x: object) -> TypeGuard[Number]:
    """Whether `x` is a Python number that only running the program tells."""
    return isinstance(x, TracedArray) and x.is_number


def is_number(x: object) -> bool:
    """Whether `x` is a Python number, a size too."""
    return isinstance(x, bool | int | float | Expr) or is_unknown_number(x)


def dtype_of(x: object) -> DType | None:
    """The element type of an array; None for a Python number."""
    if isinstance(x, TracedArray):
        return None if x.is_number else x.type.dtype
    return element_type(x.dtype) if isinstance(x, np.ndarray | np.generic) else None


def read(x: Any, dtype: DType | None = None) -> Value:
    """`x` as an IR value; a Python number takes type `dtype`, or the default of its kind.

    Raises:
        TraceError: it is no array and no number.
    """
    if is_unknown_number(x):
        return compose.cast(x.read(), weak_type(x.example, dtype))
    if isinstance(x, TracedArray):
        return x.read()
    if isinstance(x, np.ndarray):
        element_type(x.dtype)
        return current().array(x)
    if isinstance(x, np.generic):
        element_type(x.dtype)
        return current().constant(np.asarray(x))
    if isinstance(x, Expr):
        return compose.size(x, weak_type(1, dtype))
    if isinstance(x, bool | int | float):
        wanted = weak_type(x, dtype)
        if isinstance(x, int) and wanted.is_integer and not wanted.limits[0] <= x <= wanted.limits[1]:
            raise located(f"the number {x} does not fit {name_of(wanted)}")
        return compose.scalar(x, wanted)
    if isinstance(x, list | tuple):
        raise located(f"a {type(x).__name__} is given where an array is expected", help="use ds.numpy.asarray or stack")
    raise located(f"expected an array or a number, got {type(x).__name__}")


def _example(number: Any) -> object:
    """A Python number of its kind."""
    return 1 if isinstance(number, Expr) else number.example if is_unknown_number(number) else number


def together(*operands: Any) -> list[Value]:
    """Operands in the element type in which they meet (not yet of one shape).

    Raises:
        TraceError: they do not mix.
    """
    dtypes = [d for d in map(dtype_of, operands) if d is not None]
    if dtypes:
        common = promote(dtypes)
    else:
        kinds = [weak_type(_example(x), None) for x in operands]
        common = next((k for k in kinds if k.is_float), next((k for k in kinds if k.is_integer), kinds[0]))
    return [compose.cast(read(x), common) if dtype_of(x) is not None else read(x, common) for x in operands]
