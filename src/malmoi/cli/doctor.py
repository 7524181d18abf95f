"""The verb that looks at this machine."""

from __future__ import annotations

import typer

import malmoi


def doctor() -> None:
    """Say what this machine has and what malmoi will use of it."""
    import platform
    from importlib.metadata import version

    import torch

    from malmoi.models.native.library import why_not
    from malmoi.util import hardware, units

    device = hardware.pick_device()
    speed = hardware.matmul_flops_per_s(device, torch.float32)
    for name, value in {
        "malmoi": malmoi.__version__, "python": platform.python_version(), "torch": torch.__version__,
        "tokenizers": version("tokenizers"), "safetensors": version("safetensors"),
        "processor": hardware.cpu_name(), "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu (no GPU found)",
        "fast bf16": "yes" if hardware.has_fast_bf16(device) else "no (fp32 is used)",
        "AMX": "yes" if hardware.has_amx() else "no",
        "own kernels": "yes" if (reason := why_not()) is None else f"no: {reason}",
        "memory limit": units.human_bytes(hardware.memory_limit_bytes()),
        "fp32 matrix product": f"{units.human_count(speed)}FLOP/s",
    }.items():  # fmt: skip
        typer.echo(f"{name:20} {value}")
