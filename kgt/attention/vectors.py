"""Row operations for numba kernels, stated as LLVM vector instructions.

numba unrolls a short loop of constant length into scalars and vectorises one of unknown length poorly: stating the
vector made the kernels 6 times faster. LLVM splits it into whatever registers the machine has. `width` must be a
compile-time constant; rows are those of C-contiguous float32 matrices of that many columns.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(64)
_FAST = ("fast",)


@intrinsic(prefer_literal=True)
def dot(typing_context, a, i, b, j, width):
    """The inner product of row i of a and row j of b."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(_FLOAT, signature.args[4].literal_value)
        a, i, b, j, _ = arguments
        x = builder.load(_row(context, builder, signature.args[0], a, i, vector), align=4)
        y = builder.load(_row(context, builder, signature.args[2], b, j, vector), align=4)
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOAT, [_FLOAT, vector]), f"llvm.vector.reduce.fadd.v{vector.count}f32"
        )
        return builder.call(reduce, [ir.Constant(_FLOAT, 0.0), builder.fmul(x, y, flags=_FAST)], fastmath=_FAST)

    return types.float32(a, types.intp, b, types.intp, width), build


@intrinsic(prefer_literal=True)
def add_scaled(typing_context, a, i, b, j, factor, width):
    """Row i of a += factor · row j of b."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(_FLOAT, signature.args[5].literal_value)
        a, i, b, j, factor, _ = arguments
        target = _row(context, builder, signature.args[0], a, i, vector)
        source = builder.load(_row(context, builder, signature.args[2], b, j, vector), align=4)
        factor = builder.insert_element(ir.Constant(vector, ir.Undefined), factor, ir.Constant(_INDEX, 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
        product = builder.fmul(source, builder.shuffle_vector(factor, factor, everywhere), flags=_FAST)
        builder.store(builder.fadd(builder.load(target, align=4), product, flags=_FAST), target, align=4)
        return context.get_dummy_value()

    return types.void(a, types.intp, b, types.intp, types.float32, width), build


def _row(context, builder, matrix_type, matrix, row, vector):
    """A pointer to one row of a matrix."""
    data = make_array(matrix_type)(context, builder, matrix).data
    place = builder.gep(data, [builder.mul(row, ir.Constant(_INDEX, vector.count))])
    return builder.bitcast(place, vector.as_pointer())
