"""Environments of peers: made once, begun anew after an interruption or another pin, and refused with a reason."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ASK = """
import sys
from _environments import PeerError, pin_of, python_of
try:
    print(python_of(sys.argv[1], may_install=sys.argv[2] == "install"), pin_of(sys.argv[1]))
except (PeerError, ValueError) as error:
    print(type(error).__name__, error)
"""
TELL = "import pretended, torch; print(pretended.__file__, pretended.VERSION, torch.__file__)"


class Workshop:
    """A copy of the part in a folder of its own, with a package that is not on any index, in two versions."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "benchmarks" / "peers").mkdir(parents=True)
        for part in ("_environments.py", "_command.py"):
            shutil.copy(FOLDER / part, folder / "benchmarks")
        for version in ("1.0", "1.1"):
            self.make_wheel(version)
        self.pin("1.0")

    def make_wheel(self, version):
        about = f"pretended-{version}.dist-info"
        with zipfile.ZipFile(self.folder / f"pretended-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pretended.py", f"VERSION = {version!r}\n")
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: pretended\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(
                f"{about}/RECORD", f"pretended.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n"
            )

    def pin(self, version):
        (self.folder / "benchmarks" / "peers" / "pretended.txt").write_text(f"# a peer\npretended=={version}\n")

    def start(self, name="pretended", *, may_install=True):
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ASK, name, "install" if may_install else "look"],
            cwd=self.folder / "benchmarks",
            env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *args, **kwargs):
        answer, progress = self.start(*args, **kwargs).communicate(timeout=100)
        return answer.strip(), progress.strip()

    @property
    def environment(self):
        return self.folder / ".peers" / "pretended"

    @property
    def python(self):
        return str(self.environment / "bin" / "python")


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def test_an_environment_is_made_once_and_has_the_projects_packages_behind_its_own(workshop):
    making = "making .peers/pretended for pretended==1.0, once"
    assert workshop.ask() == (f"{workshop.python} pretended==1.0", making)
    assert workshop.ask() == (f"{workshop.python} pretended==1.0", "")
    told = subprocess.run([workshop.python, "-c", TELL], capture_output=True, text=True, check=True).stdout.split()
    assert Path(told[0]).is_relative_to(workshop.environment)
    assert told[1] == "1.0"
    assert Path(told[2]).is_relative_to(sysconfig.get_path("purelib"))


def test_after_an_interruption_or_another_pin_it_is_made_anew(workshop):
    workshop.ask()
    (workshop.environment / "READY").unlink()  # it is written last
    rubbish = workshop.environment / "lib" / "half"
    rubbish.write_text("of an installation")
    assert workshop.ask()[1].startswith("making ")
    assert not rubbish.exists()
    workshop.pin("1.1")
    assert workshop.ask() == (f"{workshop.python} pretended==1.1", "making .peers/pretended for pretended==1.1, once")
    told = subprocess.run([workshop.python, "-c", TELL], capture_output=True, text=True, check=True).stdout.split()
    assert told[1] == "1.1"


def test_of_two_processes_at_once_one_makes_it_and_the_other_waits(workshop):
    both = [workshop.start() for _ in range(2)]
    answers = [process.communicate(timeout=100) for process in both]
    assert [answer.strip() for answer, _ in answers] == [f"{workshop.python} pretended==1.0"] * 2
    assert sorted(progress.count("making") for _, progress in answers) == [0, 1]


def test_what_cannot_be_installed_says_why_in_one_cell_and_can_be_tried_again(workshop):
    workshop.pin("2.0")
    answer, _ = workshop.ask()
    assert answer == "PeerError No matching distribution found for pretended==2.0"
    answer, progress = workshop.ask(may_install=False)
    assert answer == "PeerError it has no environment here yet; a run without --smoke makes it"
    assert progress == ""
    workshop.make_wheel("2.0")
    assert workshop.ask()[0] == f"{workshop.python} pretended==2.0"


def test_a_peer_without_pins_is_refused(workshop):
    assert workshop.ask("nobody") == ("ValueError name='nobody' must be one of pretended.", "")


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "peers").glob("*.txt")))
def test_every_pin_is_exact_and_the_torch_is_the_projects(name):
    pins = [line for line in (FOLDER / "peers" / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in pin or " @ https://" in pin for pin in pins)
    torch_pin = next(line for line in (FOLDER.parent / "constraints.txt").read_text().splitlines() if "torch==" in line)
    assert torch_pin in pins
