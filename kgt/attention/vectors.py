"""Operations on rows and on their neighbours for numba kernels, stated as LLVM vector instructions.

numba unrolls a short loop of constant length into scalars, vectorises one of unknown length poorly, and keeps a sum of
rows in memory while it grows: vectors stated here stay in registers. LLVM splits them into what the machine has.

Matrices are C-contiguous float32 of `width` columns, a compile-time constant and a multiple of LANES. `index` lists n
rows; it, and what is as long, must be readable up to the next multiple of BATCH, and name rows that exist.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 16
"""Floats of one AVX-512 register."""

BATCH = 8
"""Rows that are multiplied at once: the sums over their lanes share the shuffles."""

LOWEST = -3e38
"""A score that no neighbour has, and whose exponential is next to nothing."""

_EXP2 = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)
"""Of the polynomial for 2ˣ, |x| ≤ ½."""

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FAST = ("fast",)

_QUARTERS = range(0, LANES, 4)
_INTERLEAVINGS = (
    [[q + lane + vector for q in _QUARTERS for lane in lanes for vector in (0, LANES)] for lanes in ((0, 1), (2, 3))],
    [[q + lane + vector for q in _QUARTERS for vector in (0, LANES) for lane in lanes] for lanes in ((0, 1), (2, 3))],
    [[first + lane + vector for vector in (0, LANES) for lane in range(8)] for first in (0, 8)],
)
"""Lanes of two vectors, those of the second counted on: what `_sums_of_lanes` adds."""


@intrinsic
def load_row(typing_context, x, w, h, i, to, row):
    """to[row, : x.shape[3]] ← x[w, h, i], for x of any layout whose last axis is contiguous."""
    return types.void(x, types.intp, types.intp, types.intp, to, types.intp), _copy_row(into_matrix=True)


@intrinsic
def store_row(typing_context, x, w, h, i, of, row):
    """x[w, h, i] ← of[row, : x.shape[3]], for x of any layout whose last axis is contiguous."""
    return types.void(x, types.intp, types.intp, types.intp, of, types.intp), _copy_row(into_matrix=False)


@intrinsic(prefer_literal=True)
def dot(typing_context, a, i, b, j, width):
    """a[i] · b[j]."""

    def build(context, builder, signature, arguments):
        a, b = (_Matrix(context, builder, signature, arguments, position) for position in (0, 2))
        return _reduced(builder, "fadd", _product(builder, a.load(arguments[1]), b.load(arguments[3])), 0.0)

    return types.float32(a, types.intp, b, types.intp, width), build


@intrinsic(prefer_literal=True)
def scale_row(typing_context, out, o, factor, a, i, width):
    """out[o] ← factor · a[i]."""

    def build(context, builder, signature, arguments):
        out, a = (_Matrix(context, builder, signature, arguments, position) for position in (0, 3))
        factor = _everywhere(builder, arguments[2])
        out.store(arguments[1], [builder.fmul(factor, chunk, flags=_FAST) for chunk in a.load(arguments[4])])
        return context.get_dummy_value()

    return types.void(out, types.intp, types.float32, a, types.intp, width), build


@intrinsic(prefer_literal=True)
def add_scaled(typing_context, out, o, factor, a, i, width):
    """out[o] += factor · a[i]."""

    def build(context, builder, signature, arguments):
        out, a = (_Matrix(context, builder, signature, arguments, position) for position in (0, 3))
        factor = _everywhere(builder, arguments[2])
        rows = zip(out.load(arguments[1]), a.load(arguments[4]), strict=True)
        out.store(arguments[1], [_plus_product(builder, total, factor, chunk) for total, chunk in rows])
        return context.get_dummy_value()

    return types.void(out, types.intp, types.float32, a, types.intp, width), build


@intrinsic(prefer_literal=True)
def dots(typing_context, query, i, rows, index, n, out, width):
    """out[j] ← query[i] · rows[index[j]] for j < n; the rest of a whole BATCH is written, too."""

    def build(context, builder, signature, arguments):
        row = _Matrix(context, builder, signature, arguments, 2)
        query = _Matrix(context, builder, signature, arguments, 0).load(arguments[1])
        index, out = (_data(context, builder, signature, arguments, position) for position in (3, 5))
        with cgutils.for_range_slice(builder, _constant(0), arguments[4], _constant(BATCH)) as (start, _):
            sums = _batch_of_dots(builder, query, row, index, _turns(builder, start))
            builder.store(sums, _vector_at(builder, out, start, BATCH), align=4)
        return context.get_dummy_value()

    return types.void(query, types.intp, rows, index, types.intp, out, width), build


@intrinsic(prefer_literal=True)
def biased_dots(typing_context, query, i, rows, index, n, bias, places, out, width):
    """out[j] ← query[i] · rows[index[j]] + bias[places[j]] for j < n, LOWEST to a whole BATCH; returns the highest."""

    def build(context, builder, signature, arguments):
        row = _Matrix(context, builder, signature, arguments, 2)
        query = _Matrix(context, builder, signature, arguments, 0).load(arguments[1])
        index, bias, places, out = (_data(context, builder, signature, arguments, place) for place in (3, 5, 6, 7))
        batch = ir.VectorType(_FLOAT, BATCH)
        lowest = ir.Constant(batch, [LOWEST] * BATCH)
        highest = cgutils.alloca_once_value(builder, lowest)
        lanes = ir.Constant(ir.VectorType(_INDEX, BATCH), list(range(BATCH)))
        with cgutils.for_range_slice(builder, _constant(0), arguments[4], _constant(BATCH)) as (start, _):
            turns = _turns(builder, start)
            sums = _batch_of_dots(builder, query, row, index, turns)
            added = ir.Constant(batch, ir.Undefined)
            for lane, turn in enumerate(turns):
                value = _at(builder, bias, _at(builder, places, turn))
                added = builder.insert_element(added, value, _constant(lane))
            left = _everywhere(builder, builder.sub(arguments[4], start), BATCH)
            inside = builder.icmp_signed("<", lanes, left)
            scores = builder.select(inside, builder.fadd(sums, added, flags=_FAST), lowest)
            builder.store(scores, _vector_at(builder, out, start, BATCH), align=4)
            before = builder.load(highest)
            higher = builder.fcmp_ordered(">", scores, before, flags=_FAST)
            builder.store(builder.select(higher, scores, before), highest)
        return _reduced(builder, "fmax", builder.load(highest))

    return types.float32(query, types.intp, rows, index, types.intp, bias, places, out, width), build


@intrinsic
def exponentials(typing_context, scores, n, shift):
    """scores[j] ← exp(scores[j] − shift), at least 2⁻¹²⁶, up to a whole BATCH; returns the sum. Cephes' exp2f: 2e-7."""

    def build(context, builder, signature, arguments):
        floats, integers = (ir.VectorType(kind, BATCH) for kind in (_FLOAT, ir.IntType(32)))
        scores = _data(context, builder, signature, arguments, 0)
        shift = _everywhere(builder, arguments[2], BATCH)
        total = cgutils.alloca_once_value(builder, ir.Constant(floats, None))

        def constant(value, kind=floats):
            return ir.Constant(kind, [value] * BATCH)

        floor = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(floats, [floats]), f"llvm.floor.v{BATCH}f32"
        )
        with cgutils.for_range_slice(builder, _constant(0), arguments[1], _constant(BATCH)) as (start, _):
            place = _vector_at(builder, scores, start, BATCH)
            x = builder.fsub(builder.load(place, align=4), shift, flags=_FAST)
            x = builder.fmul(x, constant(1.4426950408889634), flags=_FAST)
            x = builder.select(builder.fcmp_ordered(">", x, constant(-126.0), flags=_FAST), x, constant(-126.0))
            whole = builder.call(floor, [builder.fadd(x, constant(0.5), flags=_FAST)])
            x = builder.fsub(x, whole, flags=_FAST)
            y = constant(_EXP2[0])
            for coefficient in _EXP2[1:]:
                y = _plus_product(builder, constant(coefficient), y, x)
            exponent = builder.add(builder.fptosi(whole, integers), constant(127, integers))
            power = builder.bitcast(builder.shl(exponent, constant(23, integers)), floats)
            y = builder.fmul(y, power, flags=_FAST)
            builder.store(y, place, align=4)
            builder.store(builder.fadd(builder.load(total), y, flags=_FAST), total)
        return _reduced(builder, "fadd", builder.load(total), 0.0)

    return types.float32(scores, types.intp, types.float32), build


@intrinsic(prefer_literal=True)
def weighted_sum(typing_context, weights, rows, index, n, out, o, width):
    """out[o] ← Σ_{j < n} weights[j] · rows[index[j]]."""

    def build(context, builder, signature, arguments):
        row, out = (_Matrix(context, builder, signature, arguments, position) for position in (1, 4))
        weights, index = (_data(context, builder, signature, arguments, position) for position in (0, 2))
        totals = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None)) for _ in range(row.chunks)]
        with cgutils.for_range(builder, arguments[3]) as loop:
            weight = _everywhere(builder, _at(builder, weights, loop.index))
            for total, chunk in zip(totals, row.load(_at(builder, index, loop.index)), strict=True):
                builder.store(_plus_product(builder, builder.load(total), weight, chunk), total)
        out.store(arguments[5], [builder.load(total) for total in totals])
        return context.get_dummy_value()

    return types.void(weights, rows, index, types.intp, out, types.intp, width), build


@intrinsic(prefer_literal=True)
def add_to_rows(typing_context, rows, index, n, weights, x, i, width):
    """rows[index[j]] += weights[j] · x[i] for j < n, where no row is listed twice."""

    def build(context, builder, signature, arguments):
        row = _Matrix(context, builder, signature, arguments, 0)
        ours = _Matrix(context, builder, signature, arguments, 4).load(arguments[5])
        index, weights = (_data(context, builder, signature, arguments, position) for position in (1, 3))
        with cgutils.for_range(builder, arguments[2]) as loop:
            weight, key = _everywhere(builder, _at(builder, weights, loop.index)), _at(builder, index, loop.index)
            rows = zip(row.load(key), ours, strict=True)
            row.store(key, [_plus_product(builder, total, weight, chunk) for total, chunk in rows])
        return context.get_dummy_value()

    return types.void(rows, index, types.intp, weights, x, types.intp, width), build


class _Matrix:
    """Rows of a matrix argument as vectors of LANES."""

    def __init__(self, context, builder, signature, arguments, position):
        self._builder, self._width = builder, signature.args[-1].literal_value
        self.chunks = self._width // LANES
        self._data = _data(context, builder, signature, arguments, position)

    def load(self, row):
        return [self._builder.load(place, align=4) for place in self._places(row)]

    def store(self, row, chunks):
        for place, chunk in zip(self._places(row), chunks, strict=True):
            self._builder.store(chunk, place, align=4)

    def _places(self, row):
        first = self._builder.mul(row, _constant(self._width))
        for chunk in range(self.chunks):
            yield _vector_at(self._builder, self._data, self._builder.add(first, _constant(chunk * LANES)), LANES)


def _copy_row(*, into_matrix):
    def build(context, builder, signature, arguments):
        x = make_array(signature.args[0])(context, builder, arguments[0])
        shape, strides = cgutils.unpack_tuple(builder, x.shape), cgutils.unpack_tuple(builder, x.strides)
        place = [*arguments[1:4], _constant(0)]
        outside = cgutils.get_item_pointer2(context, builder, x.data, shape, strides, signature.args[0].layout, place)
        matrix = make_array(signature.args[4])(context, builder, arguments[4])
        width = cgutils.unpack_tuple(builder, matrix.shape)[1]
        inside = builder.gep(matrix.data, [builder.mul(arguments[5], width)])
        target, source = (inside, outside) if into_matrix else (outside, inside)
        cgutils.raw_memcpy(builder, target, source, shape[3], 4)
        return context.get_dummy_value()

    return build


def _data(context, builder, signature, arguments, position):
    return make_array(signature.args[position])(context, builder, arguments[position]).data


def _at(builder, data, place):
    """One element; an integer as a 64-bit one."""
    value = builder.load(builder.gep(data, [place]))
    return value if value.type in (_FLOAT, _INDEX) else builder.sext(value, _INDEX)


def _vector_at(builder, data, place, lanes):
    return builder.bitcast(builder.gep(data, [place]), ir.VectorType(_FLOAT, lanes).as_pointer())


def _constant(value):
    return ir.Constant(_INDEX, value)


def _everywhere(builder, value, lanes=LANES):
    first = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, _constant(0))
    return _pick(builder, first, first, [0] * lanes)


def _reduced(builder, operation, vector, *start):
    """All lanes of a vector in one float."""
    arguments = [*(ir.Constant(_FLOAT, value) for value in start), vector]
    signature = ir.FunctionType(_FLOAT, [argument.type for argument in arguments])
    name = f"llvm.vector.reduce.{operation}.v{vector.type.count}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments, fastmath=_FAST)


def _pick(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _product(builder, a, b):
    """Σ a_c · b_c over the chunks."""
    total = builder.fmul(a[0], b[0], flags=_FAST)
    for x, y in zip(a[1:], b[1:], strict=True):
        total = _plus_product(builder, total, x, y)
    return total


def _plus_product(builder, total, a, b):
    return builder.fadd(total, builder.fmul(a, b, flags=_FAST), flags=_FAST)


def _turns(builder, start):
    return [builder.add(start, _constant(turn)) for turn in range(BATCH)]


def _batch_of_dots(builder, query, row, index, turns):
    """The products of a query with the rows that `index` lists at these BATCH places, as one vector."""
    return _sums_of_lanes(builder, [_product(builder, query, row.load(_at(builder, index, turn))) for turn in turns])


def _sums_of_lanes(builder, vectors):
    """A vector of the sums over the lanes of each of BATCH vectors.

    Two vectors become one by adding two interleavings of them, three times over: first of floats, then of pairs, both
    within the 128 bits where a shuffle is cheapest, then of such quarters of a register.
    """
    for low, high in _INTERLEAVINGS:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(_pick(builder, a, b, low), _pick(builder, a, b, high), flags=_FAST) for a, b in pairs]
    (quarters,) = vectors
    even, odd = ([q + lane for q in (first, first + 8) for lane in range(4)] for first in (0, 4))
    return builder.fadd(_pick(builder, quarters, quarters, even), _pick(builder, quarters, quarters, odd), flags=_FAST)
