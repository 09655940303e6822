"""The folder of a run: what lies where in it, and who may write into it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from localsgd.errors import ArgumentError, DataError
from localsgd.lab.checkpoints import find_checkpoint
from localsgd.lab.config import RunConfig
from localsgd.lab.json_files import read_json, write_json
from localsgd.lab.records import names_checkpoint

__all__ = ["RunFolder"]

_MAY_DIFFER = frozenset({"engine"})
"""Fields that say how a run is computed, and not what: another value does not make it another run."""

_SETTLED = ("precision", "channels_last")
"""Fields that may be left to ``auto``, for which the folder holds what was chosen when the run began."""


@final
class RunFolder:
    """``config.json``, ``label_counts.json``, ``record.jsonl``, ``summary.json`` and ``checkpoints/`` of one run.

    Attributes:
        path: The folder.
        record: One event a line.
        checkpoints: One folder a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        """Name the parts; nothing is read or written.

        Args:
            path: The folder, which need not exist.
        """
        self.path = path
        self.record = path / "record.jsonl"
        self.checkpoints = path / "checkpoints"
        self._config = path / "config.json"
        self._label_counts = path / "label_counts.json"
        self._summary = path / "summary.json"

    def require_free(self) -> None:
        """Check that a new run may go into the folder.

        Raises:
            DataError: If it holds a run already, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file, and the run needs a folder; choose another place.")
        parts = (self._config, self.record, self._summary, self.checkpoints)
        found = [part.name for part in parts if part.exists()]
        if found:
            raise DataError(
                f"{self.path} holds a run already ({', '.join(found)}), and nothing in it was touched; resume that run, or "
                "choose another folder."
            )

    def begin(self, config: RunConfig, label_counts: Sequence[Sequence[int]] | None) -> None:
        """Make the folder and put the configuration into it, and what each worker will see of it.

        Args:
            config: The run, without ``auto`` where that stands for an arithmetic.
            label_counts: Samples of the first epoch by worker and class; ``None`` if they have no classes.

        Raises:
            DataError: If the folder holds a run already, or is a file.
        """
        self.require_free()
        self.path.mkdir(parents=True, exist_ok=True)
        if label_counts is not None:
            rows = [list(counts) for counts in label_counts]
            write_json(self._label_counts, {"distribution": config.data.distribution, "counts": rows}, indent=None)
        write_json(self._config, config.to_dict())

    def has_begun(self, config: RunConfig, *, resume: bool) -> bool:
        """Find out whether a run stands in the folder, before one is begun or resumed in it.

        Args:
            config: The run, as it is configured now.
            resume: Whether one that has begun may be gone on with.

        Returns:
            Whether it has begun; never true unless ``resume``.

        Raises:
            ArgumentError: If it was begun with another configuration.
            DataError: If it has begun and may not be resumed, or its files are damaged.
        """
        try:
            self.require_free()
        except DataError:
            if not resume:
                raise
            self.reopen(config)
            return True
        return False

    def reopen(self, config: RunConfig) -> dict[str, object] | None:
        """Look at a run that is to be resumed.

        Args:
            config: The run, as it is configured now.

        Returns:
            The summary if the run is finished, else ``None``.

        Raises:
            ArgumentError: If the run was begun with another configuration.
            DataError: If there is no run in the folder, or its files are damaged.
        """
        if not self._config.is_file():
            raise DataError(
                f"{self.path} holds no run to resume: {self._config.name} is missing; begin a new run in it."
            )
        for name, then, now in _differences(self._read_config().to_dict(), config.to_dict()):
            if name in _MAY_DIFFER or (name in _SETTLED and now == "auto"):
                continue
            raise ArgumentError(
                f"{name}={now!r} differs from {then!r}, with which the run in {self.path} was begun; resume it with the "
                "same configuration, or choose another folder."
            )
        return read_json(self._summary) if self._summary.is_file() else None

    def settle(self, config: RunConfig) -> RunConfig:
        """Keep what was chosen when the run began, whatever would be chosen on this machine.

        Args:
            config: The run, as it is configured now; `reopen` has accepted it.

        Returns:
            The same, with what the folder says in place of ``auto``.

        Raises:
            DataError: If the folder's configuration is damaged.
        """
        then = self._read_config()
        left_open = {name: getattr(then, name) for name in _SETTLED if getattr(config, name) == "auto"}
        return replace(config, **left_open)

    def latest_checkpoint(self) -> Path | None:
        """Find where a run that is to be resumed stands.

        Returns:
            Its latest checkpoint; ``None`` if it was stopped before its first one.

        Raises:
            DataError: If there is none, and the record knows of one.
        """
        try:
            return find_checkpoint(self.checkpoints)
        except DataError:
            if names_checkpoint(self.record):
                raise
            return None

    def _read_config(self) -> RunConfig:
        """Read the configuration; fields that did not exist when it was written have their defaults."""
        content = read_json(self._config)
        try:
            return RunConfig.from_dict(content)
        except ArgumentError as error:
            raise DataError(
                f"{self._config} does not fit this version of localsgd: {error} Resume the run with the version that "
                "began it, or begin a new one."
            ) from error

    def finish(self, summary: Mapping[str, object]) -> None:
        """Put the summary into the folder: the run is finished.

        Args:
            summary: What `localsgd.lab.summary.summarise` returned.

        Raises:
            DataError: If it cannot be written.
        """
        write_json(self._summary, summary)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """List the fields that differ: name, old value, new value."""
    for name in {**now, **then}:
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield prefix + name, old, new
