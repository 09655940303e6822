"""Runs every benchmark at full size, one after another, and writes one dated report: `make bench`.

Each script is a process of its own with a time limit of its own. One that fails, takes too long, or cannot run here (no
root, no GPU, no data) does not stop the others: the reason goes into the report. The report is written anew after each
script, so Ctrl-C, or a machine that goes down, leaves what there is; `--resume` goes on from there. Leave the machine alone
meanwhile.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _bench_page import facts, write_page
from _bench_plan import SMOKE_MINUTES, Entry, plan
from _bench_record import FILE_NAME, Outcome, read_record, write_record
from _command import ROOT, command_line
from _headlines import VARIABLE, read_records
from _machine import describe_commit, describe_load

__all__ = ["main"]

GRACE_SECONDS = 10.0
"""For a script that is told to end, and cleans up."""
_SKIPPED = "skipped: "


class Driver:
    """Runs scripts and keeps the report up to date."""

    def __init__(self, entries: Sequence[Entry], page: Path, options: argparse.Namespace) -> None:
        self._page, self._options = page, options
        self._commit = describe_commit()  # before the report itself, where it is tracked, becomes a change
        self._folder = page.with_suffix("")
        self._facts = {**facts(), "Command": f"`{command_line()}`"}
        earlier: list[Outcome] = []
        if options.resume:
            earlier, before = read_record(self._folder)
            _require_same_place(before, self._facts)
            self._facts["Command"] = f"{before['Command']}, then {self._facts['Command']}"
        else:
            self._folder.mkdir()
        ended = {outcome.name for outcome in earlier if outcome.is_finished}
        self._entries = [entry for entry in entries if entry.name not in ended]
        coming = {entry.name: Outcome(name=entry.name) for entry in self._entries}
        self.outcomes = [coming.get(outcome.name, outcome) for outcome in earlier]
        self.outcomes += [outcome for name, outcome in coming.items() if name not in {one.name for one in earlier}]
        self._coming, self._start = coming, time.monotonic()

    def run(self) -> bool:
        """Run everything.

        Returns:
            Whether nothing failed and nobody stopped it.
        """
        self._write()
        try:
            for index, entry in enumerate(self._entries):
                outcome = self._coming[entry.name]
                self._announce(index)
                self._run_one(entry, outcome)
                self._say(f"   {outcome.state}{': ' + outcome.reason if outcome.reason else ''}")
                self._write()
        except KeyboardInterrupt:
            self._say("stopped; what there is goes into the report")
            return False
        finally:
            self._write()
        return not any(outcome.state in ("failed", "too long") for outcome in self.outcomes)

    def _run_one(self, entry: Entry, outcome: Outcome) -> None:
        outcome.started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
        outcome.commit, outcome.load = self._commit, describe_load()
        if entry.obstacle is not None:
            outcome.state, outcome.reason = "skipped", entry.obstacle
            return
        page, records = self._folder / f"{entry.name}.md", Path(tempfile.mkdtemp(), "headlines.jsonl")
        page.unlink(missing_ok=True)  # of a run that did not come to its end
        log = records.with_name("log.txt")
        outcome.state, start = "running", time.monotonic()
        try:
            outcome.state, outcome.reason = self._wait(entry, page, log, records)
        except BaseException:
            outcome.state = "stopped"
            raise
        finally:
            outcome.seconds = time.monotonic() - start
            outcome.headlines, outcome.goals = read_records(records)
            self._keep(outcome, page, log)
            for path in (records, log):
                path.unlink(missing_ok=True)
            records.parent.rmdir()

    def _wait(self, entry: Entry, page: Path, log: Path, records: Path) -> tuple[str, str]:  # noqa: PLR0917  # four files of one run
        minutes = SMOKE_MINUTES if self._options.smoke else entry.minutes
        limit = self._options.limit or entry.limit_seconds(minutes)
        shared = ["--smoke"] if self._options.smoke else []
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(entry.script), *entry.arguments, *shared, "--out", str(page)],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, VARIABLE: str(records)},
                start_new_session=True,  # Ctrl-C is for this process alone, which then ends the other with all it started
            )
            try:
                code = self._watch(process, limit)
            finally:
                _end(process)
        if code is None:
            return "too long", f"ended after {limit / 60:.1f} minutes"
        if code:
            return "failed", f"exit status {code}"
        text = log.read_text(encoding="utf-8", errors="replace")
        skipped = [line for line in text.splitlines() if line.startswith(_SKIPPED)]
        return ("skipped", skipped[-1].removeprefix(_SKIPPED)) if skipped and not page.exists() else ("done", "")

    def _watch(self, process: "subprocess.Popen[bytes]", limit: float) -> int | None:
        start, shown = time.monotonic(), sys.stdout.isatty()
        while (elapsed := time.monotonic() - start) < limit:
            try:
                return process.wait(timeout=min(1.0, limit - elapsed))
            except subprocess.TimeoutExpired:
                if shown:
                    print(f"\r   {int(elapsed) // 60}:{int(elapsed) % 60:02d} so far ", end="", flush=True)
        return None

    def _keep(self, outcome: Outcome, page: Path, log: Path) -> None:
        """Keep the script's page; where it did not come to write one, what it printed becomes one."""
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        text = text.replace(f"{ROOT}{os.sep}", "")  # where this copy lies is nobody's business
        if not page.exists() and outcome.state != "skipped" and text.strip():
            reason = f", {outcome.reason}" if outcome.reason else ""
            page.write_text(f"**{outcome.state}{reason}: this is what it printed.**\n\n{text}", encoding="utf-8")
        if page.exists():
            outcome.page = f"{self._folder.name}/{page.name}"
        if outcome.state in ("failed", "too long"):
            outcome.log = [line for line in text.splitlines() if line.strip()]

    def _announce(self, index: int) -> None:
        entry, elapsed = self._entries[index], (time.monotonic() - self._start) / 60
        left = sum(one.minutes for one in self._entries[index:] if one.obstacle is None)
        if self._options.smoke:
            guess = "a smoke run"
        else:
            guess = f"about {entry.minutes:.0f} min; {elapsed:.0f} min so far, about {left:.0f} to go"
        self._say(f"== {index + 1} of {len(self._entries)}: {entry.name} ({guess})")

    def _say(self, text: str) -> None:
        print(f"\r{text}", flush=True)

    def _write(self) -> None:
        write_page(self._page, self.outcomes, self._facts, smoke=self._options.smoke)
        write_record(self._folder, self.outcomes, self._facts)


def main() -> None:
    options = _options()
    try:
        entries = plan(options.folder, only=options.only, leave_out=options.leave_out)
    except ValueError as error:
        sys.exit(str(error))
    if not entries:
        sys.exit(f"nothing to run: there are no scripts in {options.folder}, or --leave-out names all that are chosen.")
    if options.list:
        for entry in entries:
            print(f"{entry.name:24} about {entry.minutes:.0f} min{f'; {entry.obstacle}' if entry.obstacle else ''}")
        return
    signal.signal(signal.SIGTERM, _interrupt)
    page = options.resume or options.out or _free_page(options.smoke)
    if options.resume:
        if not (page.with_suffix("") / FILE_NAME).is_file():
            sys.exit(f"--resume {page}: there is no {page.with_suffix('').name}/{FILE_NAME} beside it to go on from.")
    elif page.exists() or page.with_suffix("").exists():
        sys.exit(f"--out {page} exists already, or a folder {page.with_suffix('').name} beside it; name another file.")
    if not page.resolve().parent.is_dir():
        sys.exit(f"--out {page}: there is no folder {page.parent}; make it first.")
    driver = Driver(entries, page, options)
    good = driver.run()
    print(f"written to {page}")
    sys.exit(0 if good else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these; --list names all")
    parser.add_argument("--leave-out", nargs="+", metavar="NAME", default=[], help="run all but these")
    parser.add_argument("--list", action="store_true", help="say what would run, and how long it takes")
    parser.add_argument("--smoke", action="store_true", help="everything once, tiny; the numbers mean nothing")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.md",
        help="default: results/DATE-bench.md; with --smoke a new folder elsewhere",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE.md",
        help="go on with this report: what is done or skipped there stays, the rest runs",
    )
    parser.add_argument(
        "--limit", type=_seconds, metavar="S", help="end each script after S seconds; default: by script"
    )
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, metavar="DIR", help="other scripts")
    options = parser.parse_args()
    if options.resume and (options.out or options.smoke):
        parser.error("--resume goes on with a report as it is; leave out --out and --smoke.")
    return options


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds > 0.")
    return value


def _require_same_place(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to mix figures of different machines or libraries in one table."""
    for name in ("Machine", "Versions"):
        if before[name] != now[name]:
            sys.exit(
                f"--resume: the report was measured with {before[name]}, and this is {now[name]}; begin a new one."
            )


def _free_page(smoke: bool) -> Path:  # noqa: FBT001  # from one line above
    if smoke:
        return Path(tempfile.mkdtemp(prefix="localsgd-bench-"), "bench.md")
    folder, date = ROOT / "benchmarks" / "results", datetime.now(UTC).strftime("%Y-%m-%d")
    names = [f"{date}-bench", *(f"{date}-bench-{number}" for number in range(2, 100))]
    return next(
        folder / f"{name}.md" for name in names if not (folder / f"{name}.md").exists() and not (folder / name).exists()
    )


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a script and all that it started: politely, then not."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(process.pid, number)  # its children may outlive it
        except (ProcessLookupError, PermissionError):
            return
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    main()
