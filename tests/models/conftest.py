from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest

from malmoi.models.native import library
from malmoi.util.hardware import cpu_flags

# Other builds: the compiler, the processor to compile for (empty: this one), and what they need of this one.
BUILDS = {
    "AVX2": ("c++", ["-march=haswell"], {"avx2", "fma"}),
    "AVX2 with VNNI": ("c++", ["-march=haswell", "-mavxvnni"], {"avx2", "fma", "avx_vnni"}),
    "AMX": ("c++", ["-march=sapphirerapids"], {"amx_tile", "amx_bf16", "avx512_bf16", "avx512_fp16"}),
    "AVX-512": ("c++", ["-march=skylake-avx512"], {f"avx512{it}" for it in ("f", "bw", "dq", "vl", "cd")}),
    "by clang": ("clang++", [], set[str]()),
}


@pytest.fixture(scope="session", params=["as it is used", *BUILDS])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Our kernels as they are used, and as other users' compilers and processors have them."""
    if request.param not in BUILDS:
        found = library.kernels()
        assert found is not None
        return found
    compiler, target, needed = BUILDS[request.param]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    if not needed <= cpu_flags():
        pytest.skip(f"this processor lacks {', '.join(sorted(needed - cpu_flags()))}")
    try:
        return library.build(compiler, tmp_path_factory.mktemp("kernels"), target)
    except subprocess.CalledProcessError as error:
        if compiler == "clang++" and b"omp" in error.stderr:
            pytest.skip("clang++ has no OpenMP here")
        raise
