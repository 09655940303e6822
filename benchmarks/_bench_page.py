"""The page that `make bench` writes: what was asked, ours beside the references and the peers, and where to read on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from _bench_record import Outcome
from _environments import PEERS, pin_of
from _headlines import Headline
from _machine import describe_machine, describe_versions
from _report import table_text

__all__ = ["facts", "write_page"]

TITLE = "What does localsgd cost, beside what physics asks and what people would use instead?"
_READ = """\
**ratio** is ours over the reference, formed within each repetition, both timed in turn in the same processes; its median is
shown, and **spread** is where that median lies with a confidence of 95%. A goal that lies inside the spread is not decided:
such a verdict is marked `~`. What is measured, and how, is on the page of each script."""
_SMOKE = "**Smoke run: it shows that everything runs. The numbers mean nothing.**"
_LOG_LINES = 15


def facts() -> dict[str, str]:
    """Gather what the numbers of all scripts have to be read beside.

    Returns:
        Facts by name.
    """
    return {
        "Machine": describe_machine(),
        "Versions": describe_versions(),
        "Peers in environments of their own": ", ".join(pin_of(path.stem) for path in sorted(PEERS.glob("*.txt"))),
    }


def write_page(path: Path, outcomes: Sequence[Outcome], known: Mapping[str, str], *, smoke: bool) -> None:
    """Write the page anew, whole or not at all.

    Args:
        path: The file.
        outcomes: All runs, in order, finished or not.
        known: What `facts` gathered, with the commands.
        smoke: Whether the numbers mean nothing.
    """
    pieces = [f"# {TITLE}", *([_SMOKE] if smoke else [])]
    judged = [one for outcome in outcomes for one in outcome.headlines if one.goal]
    header = ["question", "ours", "reference", "ratio", "spread", "goal", "verdict"]
    if judged:
        pieces += [table_text(header, [_judged_cells(one) for one in judged]), _READ]
    else:
        pieces.append("No script has handed over a ratio with a goal.")
    pieces += ["## Where it was measured", "\n".join(f"- {name}: {value}" for name, value in known.items())]
    pieces += [
        "## What ran",
        table_text(
            ["script", "outcome", "minutes", "started", "commit", "load averages", "page"],
            [_ran_cells(one) for one in outcomes],
        ),
    ]
    for outcome in outcomes:
        pieces += _failure(outcome)
    for outcome in outcomes:
        pieces += _peers(outcome)
    pieces += _other_goals(outcomes)
    text = "\n\n".join(pieces) + "\n"
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _judged_cells(one: Headline) -> list[str]:
    verdict = "" if one.met is None else "met" if one.met else "missed"
    return [
        one.question,
        one.contestant,
        one.reference,
        _number(one.ratio),
        _range(one),
        one.goal,
        verdict + _doubt(one),
    ]


def _doubt(one: Headline) -> str:
    """Mark a verdict that the spread would turn round: the goal's number lies between its ends."""
    numbers = [word for word in one.goal.replace(",", " ").split() if word.replace(".", "", 1).isdigit()]
    if one.low is None or one.high is None or len(numbers) != 1:
        return ""
    return " ~" if one.low < float(numbers[0]) < one.high else ""


def _ran_cells(one: Outcome) -> list[str]:
    outcome = f"{one.state}: {one.reason}" if one.reason else one.state
    missed = sum(not goal.met for goal in one.goals)
    if one.state == "done" and one.goals:
        outcome += f", {len(one.goals) - missed} of {len(one.goals)} goals met"
    minutes = f"{one.seconds / 60:.1f}" if one.seconds else ""
    page = f"[{Path(one.page).name}]({one.page})" if one.page else ""
    return [one.name, outcome, minutes, one.started, one.commit, one.load, page]


def _failure(one: Outcome) -> list[str]:
    if not one.log:
        return []
    return [f"Last lines of {one.name}:", "\n".join(["```", *one.log[-_LOG_LINES:], "```"])]


def _peers(outcome: Outcome) -> list[str]:
    """Show everybody beside the reference, a column a question, where a script has more than ours to show."""
    if all(one.goal for one in outcome.headlines):
        return []
    questions = list(dict.fromkeys(one.question for one in outcome.headlines))
    reference = " or ".join(dict.fromkeys(one.reference for one in outcome.headlines))
    cells = {(one.contestant, one.question): one for one in outcome.headlines}
    names = list(dict.fromkeys(one.contestant for one in outcome.headlines))
    start = _common_start(questions)
    rows = [[name, *(_peer_cell(cells.get((name, question))) for question in questions)] for name in names]
    header = ["", *(question.removeprefix(start) or question for question in questions)]
    notes = [f"{one.contestant}: {one.note}." for one in outcome.headlines if one.note]
    heading = f"## Everybody in {outcome.name}: ratio to {reference}"
    about = [f"{start.strip(' ,')}:"] if start.strip(" ,") else []
    return [heading, *about, table_text(header, rows), *dict.fromkeys(notes)]


def _peer_cell(one: Headline | None) -> str:
    if one is None or one.ratio is None:
        return "-"
    return f"{_number(one.ratio)} ({_range(one)})" if _range(one) else _number(one.ratio)


def _other_goals(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [
        [one.question, one.what, one.value, one.goal, "met" if one.met else "missed"]
        for outcome in outcomes
        for one in outcome.goals
    ]
    return (
        ["## Every goal of every script", table_text(["question", "what", "value", "goal", "verdict"], rows)]
        if rows
        else []
    )


def _common_start(questions: Sequence[str]) -> str:
    """Give the words that all questions begin with, up to a comma."""
    first, *others = [question.split(", ") for question in questions]
    count = 0
    while count < len(first) - 1 and all(len(one) > count + 1 and one[count] == first[count] for one in others):
        count += 1
    return "".join(f"{part}, " for part in first[:count]) if others else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _range(one: Headline) -> str:
    return "" if one.low is None or one.high is None else f"{_number(one.low)}..{_number(one.high)}"
