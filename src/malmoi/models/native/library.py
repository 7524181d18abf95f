"""The C++ beside this file as a library: compiled once for this processor, kept in the cache, called by
ctypes.

MALMOI_KERNELS=0 in the environment does without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path

from malmoi.util.files import cache_folder, sync_file
from malmoi.util.hardware import compiler, compiler_target, cpu_flags

_SOURCES = [
    Path(__file__).with_name(name) for name in ("kernels.cpp", "fused.cpp", "attention.cpp", "numbers.h")
]
_FLAGS = ("-std=c++17", "-O3", "-fno-strict-aliasing", "-fopenmp", "-fPIC")
_NEEDED = frozenset({"avx2", "fma", "f16c"})
_LONGEST_S = 600  # ten seconds, unless others want the cores


class Matrix(ctypes.Structure):
    """What a product multiplies by: addresses of its panels, of its bias and of the matrix whose outputs
    follow. See `kernels.cpp`."""

    _fields_ = (
        ("panels", c_void_p), ("bias", c_void_p), ("next", c_void_p),
        ("outputs", c_int64), ("inputs", c_int64), ("kind", c_int64),
        ("group", c_int64), ("has_least", c_int64), ("unit", c_float),
    )  # fmt: skip


class Norm(ctypes.Structure):
    """Addresses of a norm's numbers; an empty one is no norm. See `kernels.cpp`."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("is_layer", c_int64))


class Layer(ctypes.Structure):
    """One block. See `kernels.cpp`."""

    _fields_ = (
        ("attention_norm", Norm), ("attention_post_norm", Norm),
        ("feed_forward_norm", Norm), ("feed_forward_post_norm", Norm), ("q_norm", Norm), ("k_norm", Norm),
        ("qkv", Matrix), ("out", Matrix), ("up", Matrix), ("down", Matrix),
        ("window", c_int64), ("turn", c_int64),
    )  # fmt: skip


class Decoder(ctypes.Structure):
    """All blocks, and how they compute. See `kernels.cpp`."""

    _fields_ = (
        ("layers", POINTER(Layer)), ("norm", Norm), ("head", Matrix),
        ("num_layers", c_int64), ("width", c_int64), ("heads", c_int64), ("kv_heads", c_int64),
        ("head_width", c_int64), ("ff_width", c_int64), ("feed_forward", c_int64),
        ("eps", c_float), ("scale", c_float), ("softcap", c_float),
    )  # fmt: skip


class KernelBatch(ctypes.Structure):
    """New tokens and the cache that they continue. See `kernels.cpp`."""

    _fields_ = (
        ("rows", c_int64), ("num_tokens", c_int64), ("num_wanted", c_int64), ("threads", c_int64),
        ("counts", c_void_p), ("lengths", c_void_p), ("wanted", c_void_p), ("x", c_void_p),
        ("cos", c_void_p * 2), ("sin", c_void_p * 2), ("keys", c_void_p), ("values", c_void_p),
        ("layer_stride", c_int64), ("row_stride", c_int64), ("head_stride", c_int64), ("is_bf16", c_int64),
        ("tiles_blocks", c_int64), ("tiles_head", c_int64), ("one_by_one", c_int64), ("logits", c_void_p),
    )  # fmt: skip


class Heads(ctypes.Structure):
    """What is split into heads, and how. See `fused.cpp`."""

    _fields_ = (
        ("qkv", c_void_p), ("q", c_void_p), ("k", c_void_p), ("v", c_void_p),
        ("cos", c_void_p), ("sin", c_void_p), ("q_weight", c_void_p), ("k_weight", c_void_p),
        ("dq_weight", c_void_p), ("dk_weight", c_void_p),
        ("rows", c_int64), ("length", c_int64), ("heads", c_int64), ("kv_heads", c_int64), ("width", c_int64),
        ("table_stride", c_int64), ("is_bf16", c_int64), ("eps", c_float),
    )  # fmt: skip


class View(ctypes.Structure):
    """Where the numbers of some heads lie, and how far apart rows, heads and positions are. See
    `attention.cpp`."""

    _fields_ = (("at", c_void_p), ("row", c_int64), ("head", c_int64), ("position", c_int64))


class AttentionCall(ctypes.Structure):
    """What attends, and how. See `attention.cpp`."""

    _fields_ = (
        *((name, View) for name in ("q", "k", "v", "y", "dq", "dk", "dv", "dy")),
        ("log_sums", c_void_p), ("first", c_void_p),
        ("rows", c_int64), ("heads", c_int64), ("kv_heads", c_int64), ("length", c_int64), ("width", c_int64),
        ("value_width", c_int64), ("first_stride", c_int64), ("is_bf16", c_int64), ("scale", c_float),
    )  # fmt: skip


def kernels() -> ctypes.CDLL | None:
    """The library; None where there cannot be one (`why_not`)."""
    found = _found()
    return found if isinstance(found, ctypes.CDLL) else None


def why_not() -> str | None:
    """What keeps the kernels from this machine, if anything."""
    found = _found()
    return found if isinstance(found, str) else None


@cache
def _found() -> ctypes.CDLL | str:
    if os.environ.get("MALMOI_KERNELS") == "0":
        return "MALMOI_KERNELS=0 is set"
    if platform.system() != "Linux" or not cpu_flags() >= _NEEDED:
        return "they are for Linux on x86 processors with AVX2"
    if (found := compiler()) is None:
        return "there is no C++ compiler (on Debian and Ubuntu: apt install g++)"
    try:
        return build(found, cache_folder("kernels"))
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        return f"{found} cannot compile them: {said.splitlines()[0]}"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home to keep them in
        return f"they cannot be kept or loaded: {error}"


def build(compiler: str, folder: Path, target: Sequence[str] = ()) -> ctypes.CDLL:
    """The library of this source, compiler and processor, compiled if `folder` does not have it yet.

    target: options that say for which processor; this one's where there are none.

    Raises OSError or subprocess.SubprocessError where it cannot be.
    """
    command = [compiler, *_FLAGS, *(target or [f"-march={compiler_target()}"])]
    said = (" ".join(it).encode() for it in (command, sorted(cpu_flags())))
    of = (*(source.read_bytes() for source in _SOURCES), *said)
    path = folder / f"{hashlib.sha256(b'|'.join(of)).hexdigest()[:32]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as here:  # so that nobody loads a half-written file
            new = Path(here) / path.name
            units = [source for source in _SOURCES if source.suffix == ".cpp"]
            objects = [str(new.with_name(f"{unit.stem}.o")) for unit in units]
            with ThreadPoolExecutor() as pool:  # each is a process, and they are many seconds' work
                made = zip(units, objects, strict=True)
                list(pool.map(lambda it: _run([*command, "-c", str(it[0]), "-o", it[1]]), made))
            _run([*command, "-shared", *objects, "-o", str(new)])
            sync_file(new)
            new.replace(path)
    library = ctypes.CDLL(str(path))
    library.malmoi_wide.restype = library.malmoi_has_tiles.restype = c_int64
    library.malmoi_linear.argtypes = (POINTER(Matrix), c_void_p, c_int64, c_void_p, c_int64, c_int64)
    library.malmoi_forward.argtypes = (POINTER(Decoder), POINTER(KernelBatch))
    library.malmoi_pack.argtypes = (
        POINTER(Matrix), c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_float, c_int64,
    )  # fmt: skip
    library.malmoi_pack.restype = library.malmoi_linear.restype = library.malmoi_forward.restype = None
    _declare_fused(library)
    return library


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_LONGEST_S)


def _declare_fused(library: ctypes.CDLL) -> None:
    number, address = c_int64, c_void_p
    signatures = {
        "gate": (number, number, address, address, *[number] * 3),
        "gate_gradient": (number, number, address, address, address, *[number] * 3),
        "norm": (
            address, number, address, address, number, address, number, number, c_float, number
        ),
        "norm_gradient": (
            address, number, address, address, address, number, address, address, *[number] * 3
        ),
        "split_heads": (POINTER(Heads), number),
        "split_heads_gradient": (POINTER(Heads), address, number),
        "attention": (POINTER(AttentionCall), number),
        "attention_gradient": (POINTER(AttentionCall), number),
        "cross_entropy": (address, number, address, address, number, number, c_float, number),
    }  # fmt: skip
    for name, arguments in signatures.items():
        function = getattr(library, f"malmoi_{name}")
        function.argtypes, function.restype = arguments, None
