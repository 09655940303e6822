"""Environments of their own for the packages we are measured beside: made on first use from exact pins, then kept.

A peer may need other versions of what the project uses (Flower wants an older `rich`), so each has a virtual environment in
`.peers/`, which git ignores. It sees the project's own packages behind its own, by a `.pth` file: all contestants then run
the very same build of torch, and nothing large is installed twice.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _command import ROOT

__all__ = ["PEERS", "PeerError", "pin_of", "python_of", "variables"]

PEERS = Path(__file__).resolve().parent / "peers"
"""Where `<name>.txt` pins what the environment of a peer holds."""
_FOLDER = ROOT / ".peers"
_READY = "READY"
_LONGEST_INSTALL_SECONDS = 600
_LONGEST_REASON = 160


class PeerError(RuntimeError):
    """A peer cannot be used here. The message is the reason, short enough for a cell of a table."""


def pin_of(name: str) -> str:
    """Name the peer and its version.

    Args:
        name: A file of `peers/`, without its ending.

    Returns:
        The first requirement of that file, for example ``flwr[simulation]==1.41.0``.
    """
    lines = (line.strip() for line in _requirements(name).read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line and not line.startswith("#"))


def python_of(name: str, *, may_install: bool = True) -> Path:
    """Give the interpreter of a peer's environment; make the environment if it is not there, or not what is pinned now.

    Safe to call from several processes at once: one installs, the others wait for it. What was interrupted is begun anew.

    Args:
        name: A file of `peers/`, without its ending.
        may_install: Whether to install what is missing; otherwise that is a `PeerError`, too.

    Returns:
        The interpreter. Start it with `variables`, so that it finds `localsgd` and the parts of the benchmarks.

    Raises:
        PeerError: If it cannot be installed, with the reason.
    """
    environment, fingerprint = _FOLDER / name, _fingerprint(name)
    python = environment / "bin" / "python"
    if _is_ready(environment, fingerprint):
        return python
    if not may_install:
        raise PeerError("it has no environment here yet; a run without --smoke makes it")
    _FOLDER.mkdir(exist_ok=True)
    with _only_one(_FOLDER / f"{name}.lock"):
        if not _is_ready(environment, fingerprint):  # another process may have made it meanwhile
            _make(name, environment)
            (environment / _READY).write_text(fingerprint)
    return python


def variables(**more: str) -> dict[str, str]:
    """Give the environment variables under which a peer's interpreter finds our code, with one thread a process.

    Args:
        **more: Variables to set beside them.

    Returns:
        This process's variables with those changed.
    """
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **more}


def _requirements(name: str) -> Path:
    path = PEERS / f"{name}.txt"
    if not path.is_file():
        raise ValueError(
            f"name={name!r} must be one of {', '.join(sorted(known.stem for known in PEERS.glob('*.txt')))}."
        )
    return path


def _fingerprint(name: str) -> str:
    """Digest everything that the environment depends on; a folder that was moved or copied makes a new one."""
    parts = [_requirements(name).read_text(encoding="utf-8"), sys.version, sys.executable, str(_FOLDER / name)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _is_ready(environment: Path, fingerprint: str) -> bool:
    mark = environment / _READY
    return mark.is_file() and mark.read_text() == fingerprint


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file, or the end of the process, takes the lock off


def _make(name: str, environment: Path) -> None:
    shown = environment.relative_to(ROOT) if environment.is_relative_to(ROOT) else environment
    print(f"making {shown} for {pin_of(name)}, once", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)])
    python = environment / "bin" / "python"
    own = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    Path(own, "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--requirement", str(_requirements(name)), "--retries", "1", "--timeout", "30"]
    _run([sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *install])


def _run(command: list[str]) -> str:
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST_INSTALL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not installed within {error.timeout:.0f} s") from error
    except OSError as error:
        raise PeerError(str(error)) from error
    if answer.returncode:
        raise PeerError(_reason(answer.stderr))
    return answer.stdout


def _reason(text: str) -> str:
    """Pick the line that says why, and make one cell of a table of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    reason = lines[-1]
    for mark in ("ERROR: ", "\u2570\u2500> ", "\u00d7 "):  # as pip prints them
        marked = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        telling = [line for line in marked if not line.startswith("ResolutionImpossible")]
        if telling:
            reason = telling[-1]
            break
    if "connection broken" in text and "resolve" not in reason:
        reason += " (the package index was out of reach)"
    reason = reason.replace("|", "/")
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
