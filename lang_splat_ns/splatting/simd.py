"""Rows of 16 pixels as one value inside numba functions, so that the loops over pixels are surely vectorised.

Numba leaves it to LLVM to find the vector code in a scalar loop. LLVM gives up on `exp`, on masks and on short loops
whose arrays might overlap, which is all that compositing consists of. Here a `Row` is an LLVM vector of 16 floats:
arithmetic works on all lanes, comparisons give a `Mask`. LLVM maps it to whatever the processor has: one AVX-512
register, two of AVX, four of SSE or NEON. Only usable in `numba.njit` functions.

Numba's cache looks at the file of a compiled function only. After an edit here, remove the `__pycache__` folders.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, overload, register_model

# Inside a compiled function an intrinsic is called without its first parameter, which type checkers cannot know.
intrinsic: Any = numba_intrinsic

LANES = 16
"""Pixels in a row: the edge of a tile."""

_FLAGS = ("contract",)
"""A product and a sum may become one fused operation. Nothing else may be rearranged: runs stay reproducible."""

_EXP2 = (1.0000000716546547, 0.6931469670638646, 0.24022119723934382, 0.05550713274962795, 0.009675541330655207,
         0.0013276471518835868)  # fmt: skip
"""Best polynomial of degree 5 for 2**f with |f| <= 0.5, relative error 7.5e-8; found by reweighted least squares."""


class RowType(types.Type):
    """Numba's type of a row of 16 floats of one precision."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Row({dtype})")


class MaskType(types.Type):
    """Numba's type of 16 truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask")


@register_model(RowType)
class _RowModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), LANES))


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), LANES))


def _constant(vector: Any, number: float) -> Any:
    return ir.Constant(vector, [number] * LANES)


def _spread(builder: Any, scalar: Any) -> Any:
    """The same scalar in all lanes."""
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)


def _as_row(context: Any, builder: Any, value: Any, numba_type: Any, row: RowType) -> Any:
    """An operand as a vector: rows as they are, scalars in all lanes."""
    if isinstance(numba_type, RowType):
        return value
    return _spread(builder, context.cast(builder, value, numba_type, row.dtype))


def _common_row(*operands: Any) -> RowType | None:
    """The row type of an expression; None without a row, with rows of two precisions, or with another type."""
    rows = [operand for operand in operands if isinstance(operand, RowType)]
    others = [operand for operand in operands if not isinstance(operand, (RowType, types.Number))]
    return rows[0] if rows and not others and all(row == rows[0] for row in rows) else None


def _binary(emit: Any, result_is_mask: bool = False) -> Any:
    """An intrinsic for two operands of which at least one is a row."""

    @intrinsic
    def operation(typingctx, left, right):
        row = _common_row(left, right)
        if row is None:
            return None

        def codegen(context, builder, signature, args):
            a, b = (_as_row(context, builder, v, t, row) for v, t in zip(args, signature.args, strict=True))
            return emit(builder, a, b)

        return (MaskType() if result_is_mask else row)(left, right), codegen

    return operation


_ARITHMETIC = {
    operator.add: _binary(lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS)),
    operator.sub: _binary(lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS)),
    operator.mul: _binary(lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS)),
    operator.truediv: _binary(lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS)),
    operator.lt: _binary(lambda builder, a, b: builder.fcmp_ordered("<", a, b), True),
    operator.le: _binary(lambda builder, a, b: builder.fcmp_ordered("<=", a, b), True),
    operator.gt: _binary(lambda builder, a, b: builder.fcmp_ordered(">", a, b), True),
    operator.ge: _binary(lambda builder, a, b: builder.fcmp_ordered(">=", a, b), True),
}

minimum = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
"""The smaller of each lane."""


def _register(operation: Any, implementation: Any) -> None:
    @overload(operation)
    def _operator(left, right):
        if _common_row(left, right) is None:
            return None
        return lambda left, right: implementation(left, right)


for _operation, _implementation in _ARITHMETIC.items():
    _register(_operation, _implementation)


@intrinsic
def _both(typingctx, left, right):
    return MaskType()(left, right), lambda context, builder, signature, args: builder.and_(*args)


@overload(operator.and_)
def _and(left, right):
    if isinstance(left, MaskType) and isinstance(right, MaskType):
        return lambda left, right: _both(left, right)
    return None


@intrinsic
def where(typingctx, mask, chosen, otherwise):
    """Lanes of `chosen` where the mask is set, of `otherwise` elsewhere; one of the two may be a number."""
    row = _common_row(chosen, otherwise)
    if row is None or not isinstance(mask, MaskType):
        return None

    def codegen(context, builder, signature, args):
        a = _as_row(context, builder, args[1], signature.args[1], row)
        b = _as_row(context, builder, args[2], signature.args[2], row)
        return builder.select(args[0], a, b)

    return row(mask, chosen, otherwise), codegen


@intrinsic
def lane_bits(typingctx, mask):
    """The mask as an integer whose bit i is lane i; 0 when no lane is set."""
    if not isinstance(mask, MaskType):
        return None

    def codegen(context, builder, signature, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(32))

    return types.uint32(mask), codegen


@intrinsic
def lowest_lane(typingctx, bits):
    """Index of the lowest set bit of `lane_bits`' result, which must not be 0."""

    def codegen(context, builder, signature, args):
        zero_is_undefined = ir.Constant(ir.IntType(1), 1)
        lane = builder.cttz(args[0], zero_is_undefined)
        return context.cast(builder, lane, bits, types.intp)

    return types.intp(bits), codegen


@intrinsic
def fill(typingctx, scalar):
    """A row with the scalar in all lanes, in the scalar's own precision."""
    return RowType(scalar)(scalar), lambda context, builder, signature, args: _spread(builder, args[0])


@intrinsic
def absolute(typingctx, row):
    """The magnitude of each lane."""

    def codegen(context, builder, signature, args):
        return _call(builder, "fabs", args[0])

    return row(row), codegen


def _suffix(vector: Any) -> str:
    """How LLVM's intrinsics name a vector type."""
    return f"v{LANES}f{64 if vector.element == ir.DoubleType() else 32}"


@intrinsic
def address(typingctx, array):
    """Where an array's data begins, indexed like the flat array, without a share in its ownership.

    Passing an array to a function counts references with atomic operations, which cost more than a row of pixels
    does. An address costs nothing, but the array must outlive it: take it of a function's argument, never of a local.
    """

    def codegen(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, start: Any, start_type: Any) -> Any:
    """Where the row begins in a flat contiguous array or behind an address, as a pointer to a vector."""
    is_address = isinstance(array_type, types.CPointer)
    data = array if is_address else context.make_array(array_type)(context, builder, array).data
    index = context.cast(builder, start, start_type, types.intp)
    vector = ir.VectorType(context.get_value_type(array_type.dtype), LANES)
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typingctx, array, start):
    """The row `array[start:start + 16]` of a flat contiguous array. The bounds are not checked."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, array, args[0], args[1], start)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return RowType(array.dtype)(array, start), codegen


@intrinsic
def store(typingctx, array, start, row):
    """Write a row to `array[start:start + 16]` of a flat contiguous array. The bounds are not checked."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, array, args[0], args[1], start)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, start, row), codegen


@intrinsic
def total(typingctx, row):
    """Sum over the lanes, in a fixed order: halves onto each other, four times."""

    def codegen(context, builder, signature, args):
        value, count = args[0], LANES
        while count > 1:
            count //= 2
            halves = [
                builder.shuffle_vector(
                    value,
                    ir.Constant(value.type, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(start, start + count))),
                )
                for start in (0, count)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return row.dtype(row), codegen


@intrinsic
def exp2(typingctx, row):
    """2**x of each lane: the C library's for float64; for float32 within 2.2e-7 (relative), and 2**-64 below x = -64.

    The floor keeps products of the result normal numbers. Processors take many times as long for subnormal ones.
    """
    emit = _exp2_single if row.dtype == types.float32 else _exp2_library
    return row(row), lambda context, builder, signature, args: emit(builder, args[0])


def _call(builder: Any, name: str, value: Any) -> Any:
    kind = ir.FunctionType(value.type, [value.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{_suffix(value.type)}")
    return builder.call(function, [value])


def _exp2_library(builder: Any, x: Any) -> Any:
    return _call(builder, "exp2", x)


def _exp2_single(builder: Any, x: Any) -> Any:
    """Split x into a whole part, which is added to the exponent's bits, and a rest, which a polynomial covers."""
    integers = ir.VectorType(ir.IntType(32), LANES)
    lowest = _constant(x.type, -64.0)
    x = builder.select(builder.fcmp_ordered(">", x, lowest), x, lowest)
    whole = _call(builder, "rint", x)
    rest = builder.fsub(x, whole)
    value = _constant(x.type, _EXP2[-1])
    for coefficient in _EXP2[-2::-1]:
        value = builder.fadd(builder.fmul(value, rest, flags=_FLAGS), _constant(x.type, coefficient), flags=_FLAGS)
    shifted = builder.shl(builder.fptosi(whole, integers), ir.Constant(integers, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(value, integers), shifted), x.type)
