"""The options that `train`, `compare` and `tune` share, and what they make of a recipe."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from localsgd._checks import require, require_choice
from localsgd.lab.config import ALGORITHMS, RunConfig
from localsgd.lab.data import default_root
from localsgd.lab.recipes import RECIPES, recipe
from localsgd.lab.scales import SCALES, Scale, scaled
from localsgd.lab.sections import COMPRESSORS, OUTER_OPTIMIZERS

__all__ = ["DataRoot", "Json", "Out", "Resume", "RunOptions", "data_root_or_default", "out_option", "takes_run_options"]

_Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help=f"What to train: {', '.join(RECIPES)}.", show_default=False)
]
_Workers = Annotated[int | None, typer.Option("--workers", metavar="K", help="Number of workers, over all processes.")]
_BatchSize = Annotated[int | None, typer.Option("--batch-size", metavar="B", help="Samples of one worker in one step.")]
_Period = Annotated[
    int | None,
    typer.Option("--period", metavar="H", help="Steps between two syncs, where the algorithm has a period."),
]
_BlockSize = Annotated[
    int | None,
    typer.Option(
        "--block-size",
        metavar="K'",
        help="Neighbouring workers that make a block, a divisor of K. Hierarchical needs it; for the other algorithms it "
        "only splits the bytes into those inside blocks and those between them.",
    ),
]
_BlockPeriod = Annotated[
    int | None,
    typer.Option(
        "--block-period", metavar="Hb", help="Rounds of H steps between two averages of everyone in hierarchical."
    ),
]
_SwitchAt = Annotated[
    str | None,
    typer.Option(
        "--switch-at",
        metavar="lr-decay|FRACTION",
        help="When post-local begins to sync every H steps only: at the first decay of the learning rate, or after this "
        "fraction of the run.",
    ),
]
_Outer = Annotated[
    str | None,
    typer.Option(
        "--outer",
        metavar="|".join(OUTER_OPTIMIZERS),
        help="What becomes of the workers' mean; tune it with --set outer.momentum=... and outer.lr=...",
    ),
]
_Compression = Annotated[
    str | None,
    typer.Option(
        "--compression",
        metavar="|".join(COMPRESSORS),
        help="In what workers tell each other how far they have moved; sign and top-k remember what gets lost.",
    ),
]
_OverlapSteps = Annotated[
    int | None,
    typer.Option(
        "--overlap-steps",
        metavar="N",
        help="Steps that go on while a sync of everyone's parameters is under way; fewer than a round has.",
    ),
]
_Fragments = Annotated[
    int | None,
    typer.Option("--fragments", metavar="F", help="Parts of the model that sync in turn, each once a round."),
]
_Epochs = Annotated[
    float | None, typer.Option("--epochs", metavar="E", help="Passes over the training data, all workers together.")
]
_TrainLimit = Annotated[
    int | None, typer.Option("--train-limit", metavar="N", help="Keep only N training samples, always the same ones.")
]
_Seed = Annotated[int | None, typer.Option("--seed", metavar="S", help="Decides everything that is drawn at random.")]
_Scale = Annotated[
    str,
    typer.Option(
        "--scale",
        metavar="|".join(SCALES),
        help="Cut the recipe down: smoke is a few steps, small is for a CPU. The other options come after it.",
    ),
]
_Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="What to compute on; auto is cuda where there is one.")
]
_Processes = Annotated[
    str,
    typer.Option(
        "--processes",
        metavar="auto|N",
        help="Processes on this machine that share the workers, on a CPU and without torchrun; auto is one a core where the "
        "run is long enough.",
    ),
]


def _to_folder(text: str | None) -> Path | None:
    require(text != "", "--out is empty; name a folder, or leave it out.")
    return None if text is None else Path(text)


def out_option(default: str) -> Any:
    """Make the option that names the folder to write to; an empty name is refused.

    Args:
        default: Where that is otherwise, for the help.

    Returns:
        For an annotation.
    """
    # Not parsed as a path: an empty one would be the current directory.
    return typer.Option(
        "--out", metavar="DIR", parser=str, callback=_to_folder, help=f"Folder to write to; default: {default}."
    )


DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        envvar="LOCALSGD_DATA",
        help="Folder of the data sets; default: the user's cache folder.",
    ),
]
Out = Annotated[Path | None, out_option("runs/RECIPE-DATE-TIME")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in --out, from its last checkpoint.")]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change any field of the recipe, e.g. optimizer.momentum=0.8; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout, and all else to stderr.")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What was asked for; ``None`` leaves it to the recipe."""

    recipe: _Recipe
    """Name of the recipe."""

    scale: _Scale = "full"
    """How far to cut it down."""

    workers: _Workers = None
    """Number of workers."""

    batch_size: _BatchSize = None
    """Samples of one worker in one step."""

    period: _Period = None
    """Steps in a round."""

    block_size: _BlockSize = None
    """Workers in a block."""

    block_period: _BlockPeriod = None
    """Rounds between two averages of everyone."""

    switch_at: _SwitchAt = None
    """When post-local switches: ``lr-decay`` or a number as text."""

    outer: _Outer = None
    """Name of the outer optimizer."""

    compression: _Compression = None
    """Name of the compressor."""

    overlap_steps: _OverlapSteps = None
    """Steps that go on while a sync is under way."""

    fragments: _Fragments = None
    """Parts of the model that sync in turn."""

    epochs: _Epochs = None
    """Passes over the training data."""

    train_limit: _TrainLimit = None
    """Number of training samples to keep."""

    seed: _Seed = None
    """Seed of the run."""

    device: _Device = "auto"
    """What to compute on."""

    processes: _Processes = "auto"
    """How many processes to start: ``auto`` or a number as text."""

    data_root: DataRoot = None
    """Where data sets lie; ``None`` for the user's cache folder."""

    out: Out = None
    """Folder to write to."""

    resume: Resume = False
    """Whether to go on with what is there."""

    settings: _Settings = None
    """Each ``path.to.field=value``; they override everything else."""

    as_json: Json = False
    """Whether the result is printed for programs."""

    def configuration(self, algorithm: str | None, *, flag: str = "--algorithm") -> RunConfig:
        """Make the configuration of a run.

        Args:
            algorithm: Its algorithm; ``None`` leaves it to the recipe.
            flag: The option by which the algorithm was named, for messages.

        Returns:
            The recipe's, cut down, with the options in it, and then the settings.

        Raises:
            ArgumentError: If there is no such recipe, scale, algorithm or field, or a value cannot be honoured.
        """
        if algorithm is not None:
            require_choice(flag, algorithm, ALGORITHMS)
        if self.outer is not None:
            require_choice("--outer", self.outer, OUTER_OPTIMIZERS)
        if self.compression is not None:
            require_choice("--compression", self.compression, COMPRESSORS)
        flags = {
            "algorithm": algorithm,
            "workers": self.workers,
            "batch_size": self.batch_size,
            "period": self.period,
            "block_size": self.block_size,
            "block_period": self.block_period,
            "switch_at": self.switch_at,
            "outer.name": self.outer,
            "compression.name": self.compression,
            "overlap_steps": self.overlap_steps,
            "fragments": self.fragments,
            "epochs": self.epochs,
            "data.train_limit": self.train_limit,
            "seed": self.seed,
        }
        given = [f"{field}={value}" for field, value in flags.items() if value is not None]
        require_choice("--scale", self.scale, SCALES)
        return scaled(recipe(self.recipe), cast("Scale", self.scale)).overridden([*given, *(self.settings or ())])

    def folder(self, now: datetime) -> Path:
        """Choose the folder to write to.

        Args:
            now: The time.

        Returns:
            The one that was asked for, else a new one below ``runs``.

        Raises:
            ArgumentError: If a run is to be resumed, and its folder was not named.
        """
        require(
            self.out is not None or not self.resume, "--resume needs --out DIR, the folder of the run to go on with."
        )
        return self.out or Path("runs") / f"{self.recipe}-{now:%Y%m%d-%H%M%S}"

    @property
    def root(self) -> Path:
        """The data root: what --data-root, or else LOCALSGD_DATA, says, else the user's cache folder."""
        return data_root_or_default(self.data_root)


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every field of `RunOptions` as an option, beside its own.

    Args:
        command: It has a parameter ``options`` for them; its others stay, and come first in the help.

    Returns:
        What to register: it puts the options together, and calls the command.
    """
    own = [value for name, value in inspect.signature(command).parameters.items() if name != "options"]
    hints = get_type_hints(RunOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(RunOptions)
    ]

    def with_options(**given: Any) -> None:
        options = RunOptions(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(options=options, **given)

    parameters = [value.replace(kind=inspect.Parameter.KEYWORD_ONLY) for value in own]
    with_options.__doc__ = command.__doc__
    with_options.__annotations__ = {value.name: value.annotation for value in (*parameters, *shared)}
    vars(with_options)["__signature__"] = inspect.Signature([*parameters, *shared])
    return with_options


def data_root_or_default(data_root: Path | None) -> Path:
    """Find the data root.

    Args:
        data_root: What --data-root, or else LOCALSGD_DATA, says.

    Returns:
        That, else the user's cache folder.
    """
    return default_root() if data_root is None else data_root
