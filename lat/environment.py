"""What a result is made on: how torch is set up, and which device and packages a record names."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

VERSIONED = ("lat", "torch", "numpy", "scipy", "scikit-learn", "safetensors", "foolbox", "pyautoattack")


def prepare_torch(device: str = "cpu") -> None:
    """One thread and deterministic kernels: two runs on one machine give the same bits.

    On a GPU also products in full float32, and nothing on any other GPU.
    """
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms(True), which would load the compiler too
    if torch.device(device).type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first cuBLAS call
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.cuda.set_device(device)


def versions() -> dict[str, str]:
    """Python and the packages whose version can change a result; torch's with the build that it is."""
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in VERSIONED}
    return found | {"torch": str(torch.__version__)}


def processor() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def hardware(device: str) -> str:
    """The device with the model name of its processor, as records have it: `cpu (…)` or `cuda (…)`."""
    kind = torch.device(device).type
    return f"{kind} ({torch.cuda.get_device_name(device) if kind == 'cuda' else processor()})"
