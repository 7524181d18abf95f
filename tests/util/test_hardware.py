from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from malmoi.util import hardware
from malmoi.util.hardware import in_huge_pages

CPU = torch.device("cpu")
MIB = 1 << 20
CPU_INFO = """processor\t: 0
model name\t: A Processor of 2026
flags\t\t: fpu avx f16c avx2 fma avx_vnni avx512f avx512_bf16 avx512_vnni amx_tile amx_bf16
"""


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The processor is the one above, without a limit."""
    path = tmp_path / "cpuinfo"
    path.write_text(CPU_INFO)
    monkeypatch.setattr(hardware, "_CPU_INFO", path)
    monkeypatch.setattr(hardware, "cpu_flags", hardware.cpu_flags.__wrapped__)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    return monkeypatch


def test_the_memory_that_a_process_holds_is_in_bytes() -> None:
    process = psutil.Process()
    before, there = hardware.current_memory_bytes(), process.memory_info().rss
    assert before == pytest.approx(there, rel=0.2)
    with mmap.mmap(-1, 256 * MIB) as block:  # not of the heap, which may have as much to give again
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        during = hardware.current_memory_bytes()
    assert during - before > 192 * MIB
    assert hardware.peak_memory_bytes() > 0.9 * during
    assert hardware.peak_memory_bytes() < hardware.memory_limit_bytes() <= psutil.virtual_memory().total


def test_a_device_is_the_gpu_of_a_number_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert hardware.pick_device("cpu") == CPU
        assert hardware.pick_device("auto", 1) == (torch.device("cuda", 1) if gpu else CPU)


def test_the_speed_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    # when the measurement begins; when each product does, and when it has ended
    ticks = iter([0.0, *(0.0, 0.0, 3.0), *(3.0, 3.0, 5.0), *(5.0, 5.0, 9.0), 9.0])
    monkeypatch.setattr(hardware, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    measured = hardware.matmul_flops_per_s.__wrapped__(CPU, torch.float32, size=8, budget_s=9.0)
    assert measured == 2 * 8**3 / 2.0


def test_a_processor_is_as_linux_says(cpu_info: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hardware.cpu_name() == "A Processor of 2026"
    assert {"avx2", "amx_bf16"} < hardware.cpu_flags()
    assert hardware.has_amx()
    assert hardware.compiler_target() == "native"
    cpu_info.setattr(hardware, "_CPU_INFO", tmp_path / "absent")
    assert hardware.cpu_flags() == frozenset()
    assert not hardware.has_amx()


@pytest.mark.parametrize(
    ("limit", "left", "target"),
    [("avx2", {"fpu", "avx", "f16c", "avx2", "fma"}, "haswell"), ("default", {"fpu"}, "native")],
)
def test_pytorchs_limit_is_ours(
    limit: str, left: set[str], target: str, cpu_info: pytest.MonkeyPatch
) -> None:
    cpu_info.setenv("ATEN_CPU_CAPABILITY", limit)
    assert hardware.cpu_flags() == left
    assert not hardware.has_amx()
    assert not hardware.has_fast_bf16(CPU)
    assert hardware.compiler_target() == target


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
    assert hardware.has_fast_bf16(CPU) is fast


@pytest.mark.parametrize("inference", [False, True])
def test_whether_there_is_an_lstm_in_bf16_is_tried(inference: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("could not create a primitive descriptor")

    state = torch.get_rng_state()
    with torch.inference_mode(inference):
        tried = hardware.has_bf16_lstm.__wrapped__()
        assert tried == hardware.has_bf16_lstm.__wrapped__()
        monkeypatch.setattr(torch, "lstm", refuse)
        assert not hardware.has_bf16_lstm.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)


def test_onednn_has_layouts_for_what_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.onednn_packs(torch.float32) == torch.backends.mkldnn.is_available()
    assert not hardware.onednn_packs(torch.float16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not hardware.onednn_packs(torch.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_the_kept_heap_is_not_given_back() -> None:
    """After a large block is freed, the process still holds it; without `keep_heap` it does not."""
    code = """
import sys, torch
from malmoi.util.hardware import current_memory_bytes
from malmoi.util.hardware import keep_heap
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


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has pages of one size"
)
def test_the_kept_heap_is_in_huge_pages() -> None:
    """Linux says so of the region that holds what is made first, and of what lies far behind it."""
    code = """
import sys, torch
from malmoi.util.hardware import keep_heap, memory_limit_bytes
if not keep_heap(): sys.exit(3)
size = memory_limit_bytes() // 10
def flags(address):
    for line in open("/proc/self/smaps"):
        words = line.split()
        if "-" in words[0]: begin, end = (int(it, 16) for it in words[0].split("-"))
        if words[0] == "VmFlags:" and begin <= address < end: return words
held = [torch.empty(size, dtype=torch.uint8) for _ in range(4)]
sys.exit(int(any("hg" not in flags(one.data_ptr() + size // 2) for one in held)))
"""
    found = subprocess.run([sys.executable, "-c", code], check=False).returncode
    if found == 3:
        pytest.skip("the C library is not glibc")
    assert found == 0


def test_memory_in_huge_pages_is_memory() -> None:
    for count in (0, 10, 3 << 20):
        memory = in_huge_pages(torch.empty(count, dtype=torch.uint8)).fill_(7)
        assert bool((memory == 7).all())
