"""Where models are trained: on this machine's CPU, or on a CUDA device where there is one."""

from __future__ import annotations

import os
from typing import Final, Literal

import torch

from schemas.errors import BadInput

__all__ = ["CPU", "Device", "best_device", "device_named"]

Device = Literal["cpu", "cuda"]

CPU: Final = torch.device("cpu")
#: Without a workspace of a fixed size cuBLAS may add up in another order from run to run. Read at its first use.
_REPEATABLE: Final = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def best_device() -> Device:
    """`cuda` where torch finds such a device."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_named(name: Device) -> torch.device:
    """The device of a name. Raises BadInput for cuda where torch finds none."""
    if name == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise BadInput(
            f"torch {torch.__version__} finds no CUDA device: train with --device cpu, or look at what nvidia-smi says"
        )
    os.environ.setdefault(*_REPEATABLE)
    return torch.device(name)
