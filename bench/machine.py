"""What the figures were measured on and with: machine, commit, versions; and which core does what."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cli.code_version import commit

__all__ = ["Cores", "commit", "cpu_features", "machine", "versions"]

_PACKAGES: Final = (
    "faust-streaming", "mode-streaming", "aiokafka", "rocksdict", "fastavro", "numpy", "torch", "uvloop",
    "quixstreams", "confluent-kafka",
)  # fmt: skip


_FEATURES: Final = ("avx2", "fma", "avx512f", "avx512_vpopcntdq", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Cores:
    """The core of the measured process, and the one of the broker and of the load; None where there is no pinning."""

    measured: int | None
    rest: int | None

    @classmethod
    def available(cls) -> Cores:
        """The first two cores of this process; with a single one both share it."""
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[min(1, len(cores) - 1)])


def machine(cores: Cores) -> dict[str, Any]:
    """Processor, cores, memory, kernel, load at the start, pinning."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg()[0],
        "pinning": {"measured process": cores.measured, "broker and load": cores.rest},
    }


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of everything that the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def cpu_features() -> list[str]:
    """The vector instructions that decide which kernels run, as far as this processor has them."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().partition("\nflags")[2].partition("\n")[0].split() if info.exists() else []
    return [name for name in _FEATURES if name in flags]


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
