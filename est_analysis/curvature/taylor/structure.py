"""Rules of operators that are linear in the tensor: they act on every coefficient alike, one axis further on."""

import torch
from torch import Tensor

from est_analysis.curvature.taylor.jet import Jet, UnsupportedOperator, aligned, layout_of, rule, stack_of, value_of

aten = torch.ops.aten


def _shifted(dim: int, ndim: int) -> int:
    return dim % ndim + 1 if ndim else 1


def _viewed(x: Jet, view, stack) -> Jet:
    """A view by its two makers: of the value, if x is a parameter that can stay one, else of the stack."""
    if x.is_parameter:
        found = x.view_of_parameter(view(x.stored))
        if found is not None:
            return found
    return Jet(stack(x.stack), x.coefficients)


@rule(aten.view.default, aten._unsafe_view.default)
def _view(func, x, size, *_):
    return _viewed(x, lambda v: v.reshape(size), lambda s: s.reshape(s.shape[0], *size))


@rule(aten.t.default)
def _t(func, x):
    return _viewed(x, lambda v: v.t(), lambda s: s.transpose(1, 2) if x.ndim == 2 else s)


@rule(aten.transpose.int)
def _transpose(func, x, first, second):
    n = x.ndim
    dims = (_shifted(first, n), _shifted(second, n))
    return _viewed(x, lambda v: v.transpose(first, second), lambda s: s.transpose(*dims))


@rule(aten.permute.default)
def _permute(func, x, dims):
    moved = [_shifted(dim, x.ndim) for dim in dims]
    return _viewed(x, lambda v: v.permute(dims), lambda s: s.permute(0, *moved))


@rule(aten.unsqueeze.default)
def _unsqueeze(func, x, dim):
    at = _shifted(dim, x.ndim + 1)
    return _viewed(x, lambda v: v.unsqueeze(dim), lambda s: s.unsqueeze(at))


@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(func, x, dims=None):
    dims = range(x.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    return _view(func, x, [size for i, size in enumerate(x.shape) if size != 1 or i not in {d % x.ndim for d in dims}])


@rule(aten.select.int)
def _select(func, x, dim, index):
    at = _shifted(dim, x.ndim)
    return _viewed(x, lambda v: v.select(dim, index), lambda s: s.select(at, index))


@rule(aten.slice.Tensor)
def _slice(func, x, dim=0, start=None, end=None, step=1):
    at = _shifted(dim, x.ndim)
    return _viewed(x, lambda v: func(v, dim, start, end, step), lambda s: func(s, at, start, end, step))


@rule(aten.split.Tensor, aten.split_with_sizes.default)
def _split(func, x, size, dim=0):
    sizes = size if not isinstance(size, int) else [len(part) for part in torch.arange(x.shape[dim]).split(size)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_slice(aten.slice.Tensor, x, dim, start, start + n) for start, n in zip(starts, sizes, strict=True)]


@rule(aten.unbind.int)
def _unbind(func, x, dim=0):
    return [_select(aten.select.int, x, dim, index) for index in range(x.shape[dim])]


@rule(aten.expand.default)
def _expand(func, x, size, implicit=False):
    return _viewed(x, lambda v: v.expand(size), lambda s: aligned(s, len(size)).expand(-1, *size))


@rule(aten.as_strided.default)
def _as_strided(func, x, size, stride, offset=0):
    if x.stack.stride()[1:] != x.stride():
        raise UnsupportedOperator(f"no Taylor rule for '{func}' of a transposed parameter; use --engine hvp")
    start = x.stack.storage_offset() + (offset or 0)
    return Jet(x.stack.as_strided((len(x.stack), *size), (x.stack.stride(0), *stride), start), x.coefficients)


@rule(aten.repeat.default)
def _repeat(func, x, repeats):
    return Jet(aligned(x.stack, len(repeats)).repeat(1, *repeats), x.coefficients)


@rule(aten.alias.default)
def _alias(func, x):
    return _viewed(x, lambda v: v.view(v.shape), lambda s: s.view(s.shape))


@rule(aten.detach.default)
def _detach(func, x):
    return x.value.detach()


@rule(aten.clone.default)
def _clone(func, x, memory_format=None):
    keep = memory_format in (None, torch.preserve_format)
    return Jet(x.stack.clone(memory_format=torch.preserve_format if keep else torch.contiguous_format), x.coefficients)


@rule(aten._to_copy.default)
def _to_copy(func, x, dtype=None, device=None, **_):
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        return x.value.to(dtype=dtype, device=device)
    return Jet(x.stack.to(dtype=dtype, device=device, copy=True), x.coefficients)


@rule(aten.neg.default, aten.view_as_real.default, aten.view_as_complex.default)
def _every_coefficient(func, x):
    return Jet(func(x.stack), x.coefficients)


@rule(aten.sum.default, aten.mean.default)
def _reduce_all(func, x, dtype=None):
    return Jet(func.overloadpacket(x.stack.reshape(x.coefficients.size, x.numel()), [1], dtype=dtype), x.coefficients)


@rule(aten.sum.dim_IntList, aten.mean.dim)
def _reduce(func, x, dims, keepdim=False, dtype=None):
    dims = [_shifted(dim, x.ndim) for dim in (dims or range(x.ndim))]
    return Jet(func(x.stack, dims, keepdim, dtype=dtype), x.coefficients)


@rule(aten.cumsum.default)
def _cumsum(func, x, dim, dtype=None):
    return Jet(func(x.stack, _shifted(dim, x.ndim), dtype=dtype), x.coefficients)


@rule(aten.flip.default)
def _flip(func, x, dims):
    return Jet(x.stack.flip([_shifted(dim, x.ndim) for dim in dims]), x.coefficients)


@rule(aten.roll.default)
def _roll(func, x, shifts, dims=()):
    if not dims:
        return Jet(x.stack.flatten(1).roll(shifts, 1).view_as(x.stack), x.coefficients)
    return Jet(x.stack.roll(shifts, [_shifted(dim, x.ndim) for dim in dims]), x.coefficients)


@rule(aten._fft_c2c.default)
def _fourier(func, x, dims, *settings):
    return Jet(func(x.stack, [_shifted(dim, x.ndim) for dim in dims], *settings), x.coefficients)


@rule(aten.constant_pad_nd.default)
def _pad(func, x, pad, value=0):
    stack = func(x.stack, pad, 0)
    if value:
        stack[0] = func(x.value, pad, value)
    return Jet(stack, x.coefficients)


@rule(aten.cat.default)
def _cat(func, tensors, dim=0):
    layout = layout_of(*tensors)
    kept = [t for t in tensors if not (t.ndim == 1 and t.numel() == 0)]  # torch lets an empty vector join anything
    return Jet(torch.cat([stack_of(t, layout) for t in kept], _shifted(dim, kept[0].ndim)), layout)


@rule(aten.stack.default)
def _stack(func, tensors, dim=0):
    layout = layout_of(*tensors)
    return Jet(torch.stack([stack_of(t, layout) for t in tensors], _shifted(dim, tensors[0].ndim + 1)), layout)


@rule(aten.gather.default)
def _gather(func, x, dim, index, sparse_grad=False):
    return Jet(x.stack.gather(_shifted(dim, x.ndim), index.expand(x.coefficients.size, *index.shape)), x.coefficients)


@rule(aten.index_select.default)
def _index_select(func, x, dim, index):
    return Jet(x.stack.index_select(_shifted(dim, x.ndim), index), x.coefficients)


@rule(aten.index.Tensor)
def _index(func, x, indices):
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if used[-1] - used[0] == len(used) - 1:
        return Jet(func(x.stack, [None, *indices]), x.coefficients)
    # Indices with a gap between them move the result's axes to the front, before that of the coefficients.
    return Jet(torch.stack([func(part, indices) for part in x.stack]), x.coefficients)


@rule(aten.index_put.default)
def _index_put(func, x, indices, values, accumulate=False):
    layout = layout_of(x, values)
    parts = zip(stack_of(x, layout), stack_of(values, layout), strict=True)
    return Jet(torch.stack([func(into, indices, part, accumulate) for into, part in parts]), layout)


@rule(aten.index_add.default, aten.scatter.src)
def _scatter(func, x, *args, **kwargs):
    """Operators linear in their target and in what they put there; the latter is the only other float."""
    layout = layout_of(x, *args)
    stacks = [stack_of(v, layout) if isinstance(v, Tensor) and v.is_floating_point() else None for v in (x, *args)]
    parts = []
    for i in range(layout.size):
        called = [v if s is None else s[i] for s, v in zip(stacks, (x, *args), strict=True)]
        parts.append(func(*called, **kwargs))
    return Jet(torch.stack(parts), layout)


@rule(aten.scatter.value)
def _scatter_value(func, x, dim, index, value):
    return x.scatter(dim, index, x.value.new_full((), value).expand(index.shape))


@rule(aten.copy.default)
def _copy(func, x, source, non_blocking=False):
    layout = layout_of(x, source)
    stack = aligned(stack_of(source, layout), x.ndim).expand(-1, *x.shape)
    return Jet(stack.to(x.dtype).clone(), layout)


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(func, x, mask, value):
    if not isinstance(x, Jet) or isinstance(value, Jet):
        return torch.where(mask, value, x)
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    stack = aligned(x.stack, len(shape)).masked_fill(mask, 0)
    stack[0].masked_fill_(mask, value)
    return Jet(stack, x.coefficients)


@rule(aten.where.self)
def _where(func, condition, x, y):
    layout = layout_of(x, y)
    ndim = max(condition.ndim, x.ndim, y.ndim)
    return Jet(torch.where(condition, *(aligned(stack_of(v, layout), ndim) for v in (x, y))), layout)


@rule(
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
)
def _constant(func, x, *args, **kwargs):
    """A fresh constant; as a jet, since models write into such tensors what depends on parameters."""
    fresh = func(x.value, *args, **kwargs)
    return Jet(stack_of(fresh, x.coefficients), x.coefficients) if fresh.is_floating_point() else fresh


_CONSTANT_ALMOST_EVERYWHERE = (
    "eq ne lt le gt ge isnan isinf isfinite equal argmax argmin any all nonzero sign floor ceil round trunc"
    " floor_divide logical_not logical_and logical_or _local_scalar_dense"
)
_VALUE_ONLY = [
    func
    for packet in map(aten.__getattr__, _CONSTANT_ALMOST_EVERYWHERE.split())
    for func in map(packet.__getattr__, packet.overloads())
    if str(func._schema.arguments[0].type) == "Tensor" and not func._overloadname.endswith("out")
]


@rule(*_VALUE_ONLY)
def _value_only(func, *args, **kwargs):
    return func(*map(value_of, args), **kwargs)
