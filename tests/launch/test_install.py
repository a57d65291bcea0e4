"""What installs by itself, with a stand-in for Python: nothing is installed."""

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

# The name `jaxsim` as a package to install, whatever follows it.
OTHER = r"jaxsim(?![\w.-]*\w)"

# Records its arguments in $LOG. Makes a .venv with a copy of itself, has the
# version $VERSION, and fails to install if $FAIL is set.
PYTHON = """\
#!/usr/bin/env bash
case "$*" in
    "-c import sys; sys.exit"*) exit 0 ;;
    "-c import sys; print"*) echo "${VERSION:-3.11.7}"; exit ;;
    "-c import ensurepip"*) exit "${NO_VENV:-0}" ;;
    "-m pip --version") exit 0 ;;
esac
echo "$*" >>"$LOG"
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip install"*) exit "${FAIL:-0}" ;;
    "-m jaxsim run"*)
        mkdir -p runs/quickstart/report
        touch runs/quickstart/report/report.html ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Path:
    """A copy of the scripts, below a folder with a space in its name."""
    folder = tmp_path / "a clone"
    for name in ("launch", ".ci"):
        shutil.copytree(root / name, folder / name)
    shutil.copy(root / "pyproject.toml", folder)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


def run(
    clone: Path, script: str, *argv: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHON": str(clone.parent / "python"),
        "LOG": str(clone.parent / "log"),
        **variables,
    }
    return subprocess.run(
        [str(clone / script), *argv],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
    )


def log(clone: Path) -> list[str]:
    """What Python was called with since the last call of this function."""
    path = clone.parent / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("launch/test.sh", ".venv/bin/python -m pytest -q -n "),
        (
            "launch/quickstart.sh",
            ".venv/bin/python -m jaxsim run --config=configs/quickstart.py "
            "--workdir=runs/quickstart --config.base.steps=3",
        ),
    ],
)
def test_dry_run_does_nothing(clone: Path, script: str, command: str) -> None:
    done = run(clone, script, "--dry-run", "--config.base.steps=3")
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert f"would run: {clone.parent}/python -m venv .venv" in out
    assert "would run: .venv/bin/python -m pip install -e .[" in out
    assert f"would run: {command}" in out
    assert "--config.base.steps=3" in out
    assert not (clone / ".venv").exists()
    assert not log(clone)


def test_help_helps_and_does_nothing(clone: Path) -> None:
    scripts = [path.name for path in (clone / "launch").glob("*.sh")]
    helping = [name for name in scripts if f"  launch/{name} " in _comment(clone, name)]
    assert {"quickstart.sh", "test.sh", "tpu.sh", "slurm.sh"} <= {*helping}
    for name in helping:
        for argv in (["--help"], ["train", "-h"]):
            done = run(clone, f"launch/{name}", *argv)
            assert (done.returncode, done.stderr) == (0, "")
            assert f"  launch/{name} " in done.stdout and "#" not in done.stdout
    assert not (clone / ".venv").exists()
    assert not log(clone)


def _comment(clone: Path, name: str) -> str:
    """The comment at the top of a script."""
    return (clone / "launch" / name).read_text().partition("\nset ")[0]


def test_tests_are_installed_once(clone: Path) -> None:
    assert run(clone, "launch/test.sh", "-k", "word").returncode == 0
    venv, install, tests = log(clone)
    assert venv == "-m venv .venv"
    assert install.startswith("-m pip install -q ")
    assert install.endswith(" -e .[test]")
    assert tests.startswith("-m pytest ")
    assert tests.endswith(" -k word")
    assert run(clone, "launch/test.sh", PYTHON="").returncode == 0
    (tests,) = log(clone)
    assert tests.startswith("-m pytest ")
    with (clone / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert run(clone, "launch/test.sh").returncode == 0
    assert [line[:6] for line in log(clone)] == ["-m pip", "-m pyt"]
    clone.rename(clone.parent / "moved")  # an editable install stays behind
    assert run(clone.parent / "moved", "launch/test.sh").returncode == 0
    assert [line[:6] for line in log(clone)] == ["-m pip", "-m pyt"]


def test_ci_runs_tests_then_pages_then_package(clone: Path) -> None:
    python = clone.parent / "python"
    build = "-m\\ build*) exit 7;;\nesac\n"
    python.write_text(PYTHON.removesuffix("esac\n") + build)
    assert run(clone, ".ci/run", "-k", "word").returncode == 7
    ran = [line for line in log(clone) if not line.startswith(("-m pip", "-m venv"))]
    tests, pages, package = ran
    assert tests.endswith(" -k word")
    assert pages == "-m mkdocs build --strict"
    assert package == "-m build --outdir dist"


def test_quickstart_says_where_the_report_is(clone: Path) -> None:
    done = run(clone, "launch/quickstart.sh")
    assert done.returncode == 0, done.stderr
    assert log(clone)[1].endswith(" -e .[quickstart]")
    last, file = done.stdout.splitlines()[-2:]
    assert last.endswith("the report is in runs/quickstart/report:")
    assert last.split()[0].isdigit()
    assert (clone / file.strip()).is_file()


def test_a_failed_installation_is_repeated(clone: Path) -> None:
    done = run(clone, "launch/test.sh", FAIL="1")
    assert done.returncode == 2
    assert "installation failed" in done.stderr
    assert len(log(clone)) == 2
    assert run(clone, "launch/test.sh").returncode == 0
    assert [line[:6] for line in log(clone)] == ["-m pip", "-m pyt"]


def test_a_failed_update_leaves_no_old_stamp(clone: Path) -> None:
    assert run(clone, "launch/test.sh").returncode == 0
    before = (clone / "pyproject.toml").read_text()
    (clone / "pyproject.toml").write_text(before + "# changed\n")
    assert run(clone, "launch/test.sh", FAIL="1").returncode == 2
    (clone / "pyproject.toml").write_text(before)
    log(clone)
    assert run(clone, "launch/test.sh").returncode == 0
    assert [line[:6] for line in log(clone)] == ["-m pip", "-m pyt"]


def test_failing_tests_fail_the_script(clone: Path) -> None:
    python = clone.parent / "python"
    python.write_text(PYTHON.replace("esac\n", "-m\\ pytest*) exit 7;;\nesac\n"))
    assert run(clone, "launch/test.sh").returncode == 7


def test_no_python(clone: Path) -> None:
    done = run(clone, "launch/test.sh", PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "PYTHON=/nowhere/python is no Python 3.11" in done.stderr
    tools = clone.parent / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "cat", "cksum"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = run(clone, "launch/test.sh", PYTHON="", PATH=str(tools))
    assert done.returncode == 2
    assert "Python 3.11 or later is needed" in done.stderr
    old = tools / "python3"  # too old, or a shim that only complains
    old.write_text("#!/usr/bin/env bash\nexit 1\n")
    old.chmod(0o755)
    done = run(clone, "launch/test.sh", PYTHON="", PATH=str(tools))
    assert done.returncode == 2
    (tools / "python3.12").symlink_to(clone.parent / "python")
    done = run(clone, "launch/test.sh", "--dry-run", PYTHON="", PATH=str(tools))
    assert "would run: python3.12 -m venv .venv" in done.stdout


def test_venv_is_missing(clone: Path) -> None:
    done = run(clone, "launch/test.sh", NO_VENV="1")
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_another_python_does_not_touch_the_venv(clone: Path) -> None:
    assert run(clone, "launch/test.sh").returncode == 0
    log(clone)
    python = clone.parent / "python"
    python.write_text(PYTHON.replace("3.11.7", "3.12.1"))
    done = run(clone, "launch/test.sh")
    assert done.returncode == 2
    assert ".venv has Python 3.11.7" in done.stderr
    assert "remove .venv" in done.stderr


def test_nothing_installs_the_other_jaxsim(root: Path) -> None:
    """On PyPI, `jaxsim` is a simulator of robots; this is `jaxsim-mixtures`."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["name"] == "jaxsim-mixtures"
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *itertools.chain(*extras.values())]
    assert "jaxsim-mixtures[s3]" in required
    assert not [each for each in required if re.match(OTHER, each)]
    files = [root / "README.md"]
    for folder in ("jaxsim", "docs", "launch", "benchmarks", "configs"):
        files += (path for path in (root / folder).rglob("*") if path.is_file())
    lines = [
        f"{path}: {line}"
        for path in files
        for line in path.read_text(errors="ignore").splitlines()
        if "pip install" in line and path.suffix != ".pyc"
    ]
    assert any("jaxsim-mixtures[" in line for line in lines)
    assert not [
        line
        for line in lines
        if re.search(rf"['\"\s]{OTHER}", line.partition("pip install")[2])
    ]
