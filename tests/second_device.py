"""A second device for machines that have only a CPU, and a script that sends commands to it.

Inside `second_device` what asks for "cuda" gets tensors of a device of its own: they compute on the CPU, to the same
bits, and refuse to meet the CPU's tensors where CUDA's would. It is what PyTorch has for devices written in Python.

    python second_device.py cpu|second|cuda < commands.json

reads a list of lists of arguments of `est`, runs them one after the other with `--device` and prints each exit status.
"""

import json
import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from est_analysis.__main__ import main


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_AUTOCAST = torch.library.Library("_", "IMPL")


def _register() -> None:
    """Once a process, which then has the device for good: not on import, since doctests import every module."""
    _setup_privateuseone_for_python_backend("elsewhere", backend_module=_Backend())
    _AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # changes nothing there


DEVICE = torch.device("privateuseone:0")
CPU = torch.device("cpu")
_aten = torch.ops.aten
# CUDA takes the CPU's tensors in these: copies, and what is read with the CPU's indices.
_MIXING = {
    _aten.copy_.default,
    _aten._to_copy.default,
    _aten.to.device,
    _aten.to.dtype_layout,
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class Elsewhere(torch.Tensor):
    """A tensor of the second device; `inner` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, types, args, kwargs or {})

    # These are Python's or read memory, and never reach the line above.
    def tolist(self):
        return self.inner.tolist()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def as_subclass(self, kind):
        return self.inner.as_subclass(kind)

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)


def _compute(func, types, args, kwargs):
    """`func` on the CPU; its result is of the device it names, or of its arguments."""
    if any(
        issubclass(kind, torch.Tensor) and kind not in (torch.Tensor, torch.nn.Parameter, Elsewhere) for kind in types
    ):
        return NotImplemented  # another wrapper's turn
    leaves = tree_leaves((args, kwargs))
    device = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    here = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
    if there and here and func not in _MIXING:
        raise RuntimeError(f"{func}: tensors on two devices, on the CPU of shape {here}")
    target = there if device is None else device == DEVICE
    if func is _aten.copy_.default:
        target = isinstance(args[0], Elsewhere)
    inner = tree_map_only(Elsewhere, lambda tensor: tensor.inner, (args, kwargs))
    inner = tree_map_only(torch.device, lambda named: CPU if named == DEVICE else named, inner)
    out = func(*inner[0], **inner[1])
    if not target:
        return out
    out = tree_map_only(torch.Tensor, Elsewhere, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if device is None else out


class _Computed(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, types, args, kwargs or {})


def _renamed(value):
    if isinstance(value, str | torch.device) and str(value).split(":")[0] == "cuda":
        return DEVICE
    return value


class _Renamed(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        return func(*map(_renamed, args), **{name: _renamed(value) for name, value in kwargs.items()})


class _Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls)


def _tensor(data, *, device=None, make=torch.tensor, **options):
    """`torch.tensor` hides its copy to the device from all modes."""
    return make(data, **options) if device is None else make(data, **options).to(_renamed(device))


def _autocast(kind, *, make=torch.autocast, **options):
    return make(DEVICE.type if kind == "cuda" else kind, **options)


def _event(**_):
    return SimpleNamespace(record=lambda: None, elapsed_time=lambda end: 1.0)


def _run(thread, *, run=threading.Thread.run):
    with _Renamed(), _Computed():
        run(thread)


_OF_CUDA = {
    "is_available": True,
    "device_count": 1,
    "get_device_name": "none",
    "synchronize": None,
    "mem_get_info": (1 << 33, 1 << 33),
    "memory_allocated": 0,
    "max_memory_allocated": 0,
    "reset_peak_memory_stats": None,
}


@contextmanager
def second_device():
    """Everything that asks for "cuda" gets the second device, in threads too; for a process of its own."""
    _register()
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied parameters stay tied
    with ExitStack() as stack:
        for name, value in _OF_CUDA.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        stack.enter_context(patch.object(torch.cuda, "Event", _event))
        stack.enter_context(patch.object(threading.Thread, "run", _run))
        for name, value in {"Generator": _Generator, "tensor": _tensor, "autocast": _autocast}.items():
            stack.enter_context(patch.object(torch, name, value))
        stack.enter_context(_Renamed())
        stack.enter_context(_Computed())
        yield


def run(arguments: list[str]) -> int | None:
    """The exit status of `est` with these arguments."""
    sys.argv = ["est", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind = sys.argv[1]
    place = second_device() if kind == "second" else nullcontext()
    device = "cpu" if kind == "cpu" else "cuda"
    with place:
        statuses = [run([*arguments, "--device", device]) for arguments in json.load(sys.stdin)]
    print(json.dumps(statuses))
