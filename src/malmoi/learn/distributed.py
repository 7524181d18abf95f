"""Several processes that train one model, started by `torchrun`; one process needs none of it.

Each process computes the gradients of its share of the global batch's rows; the sums are the same as one
process's up to rounding, because losses and counts are summed before anything is divided.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from malmoi.core.errors import UserError
from malmoi.util.locks import hold

_PATIENCE = timedelta(hours=12)  # the others wait while the first process cuts a large text into tokens


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of one run, as one of them sees it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, rows: int) -> tuple[int, int]:
        """This process's rows of a global batch: (first, end). Raises UserError where it would have none."""
        if rows < self.size:
            raise UserError(f"train.batch={rows} is less than the {self.size} processes that share it")
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def sum_over_processes(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of the processes."""
        return self.sum_over_processes(float(flag))[0] > 0

    def with_gradients(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Those that have a gradient in one of the processes; where this one has none, it is zero."""
        if self.size == 1:
            return [one for one in parameters if one.grad is not None]
        counts = self.sum_over_processes(*(float(one.grad is not None) for one in parameters))
        found = [one for one, count in zip(parameters, counts, strict=True) if count]
        for one in found:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        return found

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over the processes, in place, in one message."""
        if self.size == 1:
            return
        flat = _flatten_dense_tensors(tensors)
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):
            tensor.copy_(summed)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def writing(self, folder: Path) -> Iterator[None]:
        """Keep other runs from the folder while the block runs: the first process holds its lock.

        Raises UserError, in every process of the group, where another run holds it.
        """
        with ExitStack() as stack:
            refused: UserError | None = None
            try:
                if self.first:
                    stack.enter_context(hold(folder))
            except UserError as error:
                refused = error
            if self.any(refused is not None):
                raise refused or UserError(f"{folder} is not free; the first process says why")
            yield

    def leave(self) -> None:
        """All together: a process that goes alone breaks the others' connections."""
        self.wait()
        if self.size > 1:
            distributed.destroy_process_group()


ALONE = Group()


def join_group() -> Group:
    """The group that `torchrun` started this process in, or a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
    return Group(distributed.get_rank(), size, local_rank)


def _device() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
