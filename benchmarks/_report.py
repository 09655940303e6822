"""Results as tables and goals, printed as they come, and written as one dated Markdown page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from _command import command_line
from _headlines import Goal, Headline, record
from _machine import describe_commit, describe_load, describe_machine, describe_versions
from _timing import Spread

__all__ = ["Report", "bytes_text", "ratio_text", "seconds_text", "table_text"]

_SMOKE = "Smoke run: it shows that the script works. The numbers mean nothing."


class Report:
    """Prints what it is given, and remembers it for the page."""

    def __init__(self, question: str, *, seed: int, smoke: bool) -> None:
        """Begin with the question and what the numbers have to be read beside.

        Args:
            question: The script's docstring: its first line becomes the title.
            seed: Seed of the run.
            smoke: Whether the numbers mean nothing.
        """
        title, _, explanation = question.strip().partition("\n")
        facts = {
            "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "Commit": describe_commit(),
            "Versions": describe_versions(),
            "Machine": describe_machine(),
            "Load averages at the start": describe_load(),
            "Command": f"`{command_line()}`",
            "Seed": str(seed),
        }
        self._title = title
        self._pieces: list[str] = []
        self._add(f"# {title}")
        if smoke:
            self._add(f"**{_SMOKE}**")
        self._add("\n".join(f"- {name}: {value}" for name, value in facts.items()))
        if explanation.strip():
            self._pieces.append(explanation.strip())

    def add_heading(self, text: str) -> None:
        """Begin a section.

        Args:
            text: Its heading.
        """
        self._add(f"## {text}")

    def add_text(self, text: str) -> None:
        """Say something between the tables.

        Args:
            text: One paragraph.
        """
        self._add(text)

    def add_table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table whose first column is aligned to the left, the others to the right.

        Args:
            header: One word or two a column.
            rows: As many cells each.
        """
        self._add(table_text(header, rows))

    def add_goal(self, what: str, value: str, *, limit: str, met: bool) -> None:
        """Hold a number against its goal.

        Args:
            what: What was measured.
            value: The number.
            limit: What it should be.
            met: Whether it is.
        """
        self._add(f"goal {'met' if met else 'missed'}: {what} is {value} (goal: {limit})")
        record(Goal(question=self._title, what=what, value=value, goal=limit, met=met))

    def add_headline(
        self,
        question: str,
        contestant: str,
        reference: str,
        *,
        ratio: Spread | None,
        goal: str = "",
        met: bool | None = None,
        note: str = "",
    ) -> None:
        """Hand a figure to the report of `_bench.py`; the page itself shows it in its tables.

        Args:
            question: What is compared, in words that need no page around them.
            contestant: Who.
            reference: What it is held against.
            ratio: Contestant over reference; ``None`` where there is no figure.
            goal: What the ratio should be; empty for those who have no goal.
            met: Whether it is.
            note: What stands in for the figure.
        """
        low, high = ratio.median_interval if ratio else (None, None)
        record(
            Headline(
                question=question,
                contestant=contestant,
                reference=reference,
                ratio=ratio.median if ratio else None,
                low=low,
                high=high,
                goal=goal,
                met=met,
                note=note,
            )
        )

    def add_picture(self, name: str, text: str) -> None:
        """Show a picture that lies beside the page.

        Args:
            name: Its file's name.
            text: What it shows, for those who do not see it.
        """
        self._add(f"![{text}]({name})")

    def write(self, path: Path | None) -> None:
        """Write the page.

        Args:
            path: A file that does not exist; ``None`` writes nothing.
        """
        if path is not None:
            with path.open("x", encoding="utf-8") as file:
                file.write("\n\n".join([*self._pieces, f"Load averages at the end: {describe_load()}"]) + "\n")
            print(f"written to {path}")

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        print(f"{piece}\n", flush=True)


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table whose first column is aligned to the left, the others to the right.

    Args:
        header: One word or two a column.
        rows: As many cells each.

    Returns:
        The table, as Markdown.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    cells = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], rule, *cells[1:]])


def seconds_text(seconds: float) -> str:
    """Word a duration with three digits.

    Args:
        seconds: The duration.

    Returns:
        For example ``1.23 ms``.
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-6:#.3g} us".replace(". ", " ")


def bytes_text(num_bytes: float) -> str:
    """Word a size in MiB.

    Args:
        num_bytes: The size.

    Returns:
        For example ``1.04 MiB``.
    """
    return f"{num_bytes / 2**20:.2f} MiB"


def ratio_text(low: float, high: float, *, digits: int = 3) -> str:
    """Word a range of ratios.

    Args:
        low: Its lower end.
        high: Its upper end.
        digits: Digits after the point.

    Returns:
        For example ``0.998..1.004``.
    """
    return f"{low:.{digits}f}..{high:.{digits}f}"
