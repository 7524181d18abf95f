"""What this machine has and can do: memory limits, processor features, the speed of a matrix product.

It loads PyTorch only where PyTorch is asked, as what goes without it uses this, too.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["fp32", "bf16"]

# narrower models spend their time between the matrix products, where bf16 only adds casts
_BF16_PAYS_WIDTH = 128
# PyTorch's own limit on the instructions that it uses, and which flags, as they begin, each value leaves out
_LIMIT = "ATEN_CPU_CAPABILITY"
_LEFT_OUT = {"avx2": ("avx512", "avx10", "avx_", "amx"), "default": ("avx", "fma", "f16c", "amx")}
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def pick_device(name: str = "auto", number: int = 0) -> torch.device:
    """`auto` is the GPU of that number where there is one, else the CPU."""
    import torch

    if name != "auto":
        return torch.device(name)
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the processor as Linux names them; empty elsewhere.

    Everything here that depends on the processor asks for them, so the limit that PyTorch reads from
    ATEN_CPU_CAPABILITY holds for our own choices and kernels, too: with `avx2` they are those of a processor
    with no more than AVX2. oneDNN has a limit of its own, ONEDNN_MAX_CPU_ISA.
    """
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split()
    left_out = _LEFT_OUT.get(os.environ.get(_LIMIT, ""), ())
    return frozenset(flag for flag in flags if not flag.startswith(left_out))


def compiler_target() -> str:
    """What a compiler is to compile for (its -march): this processor, or as much of it as `cpu_flags` has."""
    return "haswell" if os.environ.get(_LIMIT) == "avx2" else "native"


def cpu_name() -> str:
    """The processor's model name, and its family where the name says nothing."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return next(value.strip() for key, value in fields.items() if key.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware here."""
    if device.type == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bf16 and of 8 bits (Intel's AMX)."""
    return "amx_tile" in cpu_flags()


def onednn_packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a layout of its own here for matrices of that type."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@cache
def has_bf16_lstm() -> bool:
    """Whether an LSTM layer of PyTorch's runs in bf16 under autocast on this processor: tried once.

    oneDNN computes it, and without AVX-512 it has none in bf16.
    """
    import torch

    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            weights = [torch.zeros(shape, requires_grad=True) for shape in ((4, 1), (4, 1), (4,), (4,))]
            x_111 = torch.zeros(1, 1, 1)
            y_111, *_ = torch.lstm(x_111, (x_111, x_111), weights, True, 1, 0.0, True, False, True)
            y_111.sum().backward()
    except RuntimeError:
        return False
    return True


def bf16_pays(device: torch.device, width: int) -> bool:
    """Whether a model of that width trains faster in bf16 here: a rule, so that a run can be repeated."""
    return has_fast_bf16(device) and (device.type == "cuda" or width >= _BF16_PAYS_WIDTH)


def training_dtype(asked: Dtype | Literal["auto"], device: torch.device, width: int) -> Dtype:
    """What a model of that width computes in: what is asked for, else what pays."""
    if asked != "auto":
        return asked
    return "bf16" if bf16_pays(device, width) else "fp32"


def memory_limit_bytes() -> int:
    """The memory that this process may use: the control group's limit or the machine's, the smaller."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdigit():
            return min(int(text), physical)
    return physical


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """The most memory that this process (or, on a GPU, torch on that device) has held at once."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def current_memory_bytes() -> int:
    """The memory that this process holds now (Linux; elsewhere its peak)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return peak_memory_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


@cache
def matmul_flops_per_s(
    device: torch.device, dtype: torch.dtype, *, size: int = 1024, budget_s: float = 0.4
) -> float:
    """The best measured speed of a square matrix product: the ceiling that MFU is a share of."""
    import torch

    a, b = torch.ones(2, size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    best_s, end_s = float("inf"), time.perf_counter() + budget_s
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        torch.matmul(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * size**3 / best_s


def compiler() -> str | None:
    """This machine's C++ compiler, if any."""
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameter numbers in <malloc.h>
_NEVER, _TOP_PAD_BYTES = -1, 64 << 20
_HUGE_PAGE_BYTES, _MADV_HUGEPAGE = 2 << 20, 14  # the number in <sys/mman.h>


@cache
def keep_heap() -> bool:
    """Tell malloc to keep freed blocks, and Linux to hold them in pages of 2 MiB.

    The heap gets addresses for half of this machine's memory at once, for Linux must be asked before anything
    is written there; until then they take no memory. Returns whether this C library can (glibc only).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_TRIM_THRESHOLD: _NEVER, _TOP_PAD: _TOP_PAD_BYTES, _MMAP_MAX: 0}
    can = all(libc.mallopt(parameter, value) == 1 for parameter, value in settings.items())
    if can and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        libc.malloc.restype, size = ctypes.c_void_p, memory_limit_bytes() // 2
        if begin := libc.malloc(ctypes.c_size_t(size)):
            _ask_for_huge_pages(begin, begin + size)
            libc.free(ctypes.c_void_p(begin))
    return can


def _ask_for_huge_pages(begin: int, end: int) -> None:
    """For addresses of memory; what is not a whole page at either end stays as it is."""
    begin = -(-begin // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    end = end // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if sys.platform == "linux" and end > begin:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_HUGEPAGE)


@contextmanager
def without_collecting() -> Iterator[None]:
    """For what makes a million objects that all stay: Python would look for garbage among them all the time.

    That takes a quarter of the time to import PyTorch, or to build a vocabulary of 262,144.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.unfreeze()  # both together: what there is counts as old, without a look at each
            gc.enable()


def in_huge_pages(memory: torch.Tensor) -> torch.Tensor:
    """The same tensor, after Linux was asked to hold it in pages of 2 MiB: before anything is written to it.

    A processor fetches ahead only within a page.
    """
    if memory.device.type == "cpu":
        _ask_for_huge_pages(memory.data_ptr(), memory.data_ptr() + memory.nbytes)
    return memory
