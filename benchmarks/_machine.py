"""What a number has to be read beside: commit, versions, hardware, and how busy the machine was."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from _command import ROOT

from localsgd.lab.cores import usable_cores

__all__ = ["describe_commit", "describe_load", "describe_machine", "describe_versions"]

_PACKAGES = ("localsgd", "torch", "accelerate", "numpy")


def describe_commit() -> str:
    """Name the commit that was measured, and whether tracked files differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown (not a git repository)"
    return f"{commit}, with local changes" if _git("status", "--porcelain", "--untracked-files=no") else commit


def describe_versions() -> str:
    """List Python and the packages that took part."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)


def describe_machine() -> str:
    """Name processor, usable cores, memory and kernel."""
    model = _first(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo")) or platform.processor() or platform.machine()
    kilobytes = _first(r"^MemTotal:\s*(\d+) kB$", Path("/proc/meminfo"))
    memory = f"{int(kilobytes) / 2**20:.1f} GiB" if kilobytes else "unknown memory"
    return f"{model}, {_num_cores()} cores, {memory}, {platform.system()} {platform.release()}"


def describe_load() -> str:
    """Give the load averages: well above what the benchmark itself needs, the numbers are worth little."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg())


def _num_cores() -> int:
    return usable_cores()


def _first(pattern: str, path: Path) -> str | None:
    match = re.search(pattern, path.read_text(), re.MULTILINE) if path.exists() else None
    return match[1].strip() if match else None


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
