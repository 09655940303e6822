"""The last message of a program that runs on many processes: said once, by the right one, before all of them end."""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from localsgd.cli.launch import Launch

__all__ = ["end_together", "excuse"]

_PATIENCE = timedelta(seconds=5)
"""How long to wait for others who end with a message, too; those who fail alike do so within a moment."""

_NOTHING_TO_SAY = "gone"
_CAUSE, _ECHO = "cause: ", "echo: "


def end_together(message: str, launch: Launch | None, *, is_echo: bool = False) -> None:
    """Print a last message on stderr once, and let all processes that have one end together.

    Torchrun kills the other processes as soon as the first one has ended. So rank 0 speaks at once, and then nobody goes on
    before all have come here or a few seconds have passed. Other ranks speak only if rank 0 has not said the same.

    Args:
        message: What this process has to say.
        launch: Place of this process, if a launcher started it.
        is_echo: Whether this process ends because it has lost another one. Then it speaks only if nobody can say why.
    """
    if launch is None or launch.world_size == 1:
        _say(message)
        return
    speaks_at_once = launch.rank == 0 and not is_echo
    if speaks_at_once:
        _say(message)
    # The kill must not replace the status with which this process is about to end by itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store = _find_store(os.environ)
    names = [_name(rank) for rank in range(launch.world_size)]
    was_said = is_explained = False
    # Whatever fails here, the store is gone or somebody did not come: then everybody speaks for himself.
    with contextlib.suppress(RuntimeError):
        if store is not None:
            store.set(names[launch.rank], (_ECHO if is_echo else _CAUSE) + message)
            with contextlib.suppress(RuntimeError):
                store.wait(names, _PATIENCE)
            others = [name for name in names if name != names[launch.rank] and store.check([name])]
            is_explained = is_echo and any(store.get(name).startswith(_CAUSE.encode()) for name in others)
            words = [(kind + message).encode() for kind in (_CAUSE, _ECHO)]
            was_said = names[0] in others and store.get(names[0]) in words
    if launch.rank == 0 and not speaks_at_once and not is_explained:
        _say(message)
    elif launch.rank != 0 and not was_said and not is_explained:
        _say(f"process {launch.rank} of {launch.world_size}: {message}")


def excuse(store: Any, rank: int, *, is_explained: bool = False) -> None:
    """Tell those who wait in `end_together` that a process is gone, and will not come.

    Args:
        store: The one that the launcher keeps.
        rank: Number of the process. If it has come, nothing changes.
        is_explained: Whether the launcher says why, so that those who have only lost this process need not speak.
    """
    with contextlib.suppress(RuntimeError):
        word = _CAUSE if is_explained else _NOTHING_TO_SAY
        _shared_part(store, os.environ).compare_set(_name(rank), "", word)


def _name(rank: int) -> str:
    return f"end/{rank}"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _find_store(environment: Mapping[str, str]) -> Any:
    """Reach the store that torchrun's agent keeps, which outlives every process that it has started."""
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return None
    with contextlib.suppress(KeyError, ValueError, RuntimeError):
        host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=_PATIENCE)  # type: ignore[attr-defined]  # it is there
        return _shared_part(store, environment)
    return None


def _shared_part(store: Any, environment: Mapping[str, str]) -> Any:
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"localsgd/{attempt}", store)  # type: ignore[attr-defined]  # it is there
