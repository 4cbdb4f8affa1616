"""On which machine and with which versions figures were made."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import jax

from benchmarks.rounds import cores

PACKAGES = ("jax", "jaxlib", "optax", "numpy", "torch")


def field(path: str, name: str) -> str | None:
    """The first value of `name` in a file of lines `name : value`."""
    try:
        with open(path) as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return None


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, str]:
    """Processor, cores, memory, device; Python and the packages."""
    memory = field("/proc/meminfo", "MemTotal")
    found = {
        "processor": field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(cores()),
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "",
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{package: installed(package) or "" for package in PACKAGES},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    return {name: value for name, value in found.items() if value}
