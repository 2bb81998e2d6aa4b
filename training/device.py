"""Where a ranker is trained: the CPU, or a GPU if there is one and it is faster."""

from __future__ import annotations

import os

import torch

from core.errors import ConfigError

CPU = torch.device("cpu")
WORTH_A_GPU = 1024
"""Batches from which a GPU gains. Below, it waits for its next small step; see ``benchmarks.training``."""


def training_device(name: str, batch_size: int = WORTH_A_GPU) -> torch.device:
    """The device of ``CLOCK_DEVICE``; with ``torchrun`` the processes of a machine take its GPUs in turn.

    On a GPU only operations that give the same bits every time are allowed, as on the CPU. The bits of the two differ, so a
    chain of states repeats exactly on the kind of device that it was trained on.

    Args:
        name: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one and batches are large enough to benefit.
        batch_size: samples a step.

    Raises:
        ConfigError: ``cuda``, and PyTorch sees no GPU.
    """
    if name == "cpu" or (name == "auto" and not (torch.cuda.is_available() and batch_size >= WORTH_A_GPU)):
        return CPU
    if not torch.cuda.is_available():
        raise ConfigError("CLOCK_DEVICE=cuda, and PyTorch sees no GPU here; install its CUDA build, or set 'auto'")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
