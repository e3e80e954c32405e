"""Keep freed memory in the process.

glibc gives every large tensor back to the kernel when it is freed and faults it in again, zeroed, at the next step. For
small models on CPU those page faults cost up to half of a step. With these limits freed blocks stay in the heap and are
reused (benchmarks/subnet_step.py measures both).
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; returns whether it could (only Linux with glibc has the switch).

    Applies to the whole process, and memory once used is returned to the system only when the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # No mmap for large blocks, never trim, grow by 64 MiB, one arena (others are too small for large tensors).
    limits = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20, _M_ARENA_MAX: 1}
    outcomes = [mallopt(name, value) for name, value in limits.items()]
    return all(outcomes)
