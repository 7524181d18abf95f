from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from malmoi.util import hardware
from malmoi.util.heap import in_huge_pages


def test_what_every_machine_has() -> None:
    assert hardware.cpu_name()
    assert 0 < hardware.current_memory_bytes() <= hardware.peak_memory_bytes() * 1.1
    assert hardware.peak_memory_bytes() < hardware.memory_limit_bytes()
    assert hardware.matmul_flops_per_s(torch.device("cpu"), torch.float32, budget_s=0.01) > 1e8
    assert hardware.pick_device("cpu") == torch.device("cpu")


def test_the_smaller_memory_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "_CGROUP_LIMITS", (str(tmp_path / "absent"), str(limit)))
    limit.write_text("1048576\n")
    assert hardware.memory_limit_bytes() == 1 << 20
    limit.write_text("max\n")  # no limit
    physical = hardware.memory_limit_bytes()
    limit.write_text(str(1 << 62))
    assert hardware.memory_limit_bytes() == physical > 1 << 20


@pytest.mark.parametrize(("flag", "fast"), [("avx2", False), ("avx512_bf16", True), ("amx_bf16", True)])
def test_bf16_is_fast_where_the_processor_says_so(
    flag: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"fpu", flag}))
    assert hardware.has_fast_bf16(torch.device("cpu")) is fast


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_the_kept_heap_is_not_given_back() -> None:
    """After a large block is freed, the process still holds it; without `keep_heap` it does not."""
    code = """
import sys, torch
from malmoi.util.hardware import current_memory_bytes
from malmoi.util.heap import keep_heap
if sys.argv[1] == "keep" and not keep_heap(): sys.exit(3)
before = current_memory_bytes()
block = torch.ones(64 << 20, dtype=torch.uint8)
del block
sys.exit(int(current_memory_bytes() - before > 32 << 20))
"""
    codes = {
        how: subprocess.run([sys.executable, "-c", code, how], check=False).returncode
        for how in ("keep", "give")
    }
    if codes["keep"] == 3:
        pytest.skip("the C library is not glibc")
    assert codes == {"keep": 1, "give": 0}


def test_memory_in_huge_pages_is_memory() -> None:
    for count in (0, 10, 3 << 20):
        memory = in_huge_pages(torch.empty(count, dtype=torch.uint8)).fill_(7)
        assert bool((memory == 7).all())
