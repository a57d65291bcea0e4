"""The command line: arguments, errors and exit codes."""

import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from jaxsim import cli, devices
from jaxsim.config import save_config
from jaxsim.errors import DamagedError, UserError, commands_for, with_workdir
from jaxsim.log import detail, say, show_table
from jaxsim.records import VERSION

HEAVY = {"jax", "matplotlib", "pandas", "scipy", "tensorflow"}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(
        "from jaxsim.config import default_config, source\n"
        "def get_config(arg=None):\n"
        "    c = default_config()\n"
        "    c.name = arg or 'plain'\n"
        "    c.corpus.partitions = {\n"
        "        'a': source(reader='text', path='a'),\n"
        "        'b-c': source(reader='text', path='b'),\n"
        "    }\n"
        "    return c\n"
    )
    return path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A fake of `jaxsim.commands`; a test adds the functions it needs."""
    module: Any = types.ModuleType("jaxsim.commands")
    monkeypatch.setitem(sys.modules, "jaxsim.commands", module)
    monkeypatch.setattr("jaxsim.commands", module, raising=False)
    monkeypatch.setattr(devices, "use_compilation_cache", lambda: None)
    return module


def arguments(config: Path, *rest: str) -> list[str]:
    return [f"--config={config}", "--workdir=w", *rest]


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_command(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    listed = re.findall(r"^ {4}(\w+) +[A-Z]", out, re.M)
    assert listed == list(cli.COMMANDS)
    for word in ("base model", "tie set", "exit codes", "jaxsim run --config"):
        assert word in out


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_command_help_explains_its_flags(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert cli.COMMANDS[name] in out and "--workdir" in out
    assert ("--config " in out) == (name not in cli.WITHOUT_CONFIG)
    assert ("--coordinator" in out) == (name in ("base", "train"))
    for line in out.splitlines():
        assert len(line) <= 80
        if match := re.match(r"  --\S+ \S+  +(.*)", line):
            assert re.match("[A-Z]", match[1])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxsim 0.")


def test_overrides(config_file: Path) -> None:
    call = cli.parse(
        [
            "run",
            *arguments(
                Path(f"{config_file}:word"),
                "--config.model.dim=64",
                "--config.recipe.tail=1",
                "--config.train.unroll=false",
                "--config.corpus.partitions.a.path=x=y",
                '--config.corpus.partitions["b-c"].path=z',
                "--config.corpus.partitions.a.by_dates=(('1', '2'),)",
                "--config.search.target={'a': 0.5}",
            ),
        ]
    )
    config = call.config
    assert config is not None
    assert config.name == "word"
    assert config.model.dim == 64
    assert config.recipe.tail == 1.0
    assert config.train.unroll is False
    assert config.corpus.partitions["a"].path == "x=y"
    assert config.corpus.partitions["b-c"].path == "z"
    assert config.corpus.partitions["a"].by_dates == (("1", "2"),)
    assert config.search.target == {"a": 0.5}
    assert call.workdir == Path("w")


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        (["--config.model.dimm=3"], r"--config\.model\.dimm: unknown key.*dim"),
        (["--config.modle.dim=3"], r"--config\.modle\.dim: unknown key"),
        (["--config.model.dim.x=3"], r"--config\.model\.dim\.x: unknown key"),
        (["--config.model.dim=x"], r"config\.model\.dim=x"),
        (["--config.model.dim=1.5"], r"config\.model\.dim=1\.5"),
        (["--config.model.tied=maybe"], r"config\.model\.tied=maybe"),
        (["--config.model=3"], r"config\.model=3"),
        (["--config.model.norm=batch"], r"config\.model\.norm: must be one"),
        (["--config.b c=3"], r"--config\.b c: not a key"),
        (['--config.corpus["a b"]=3'], r"a name with spaces; set it in"),
        (["--config.search.target={'a': 'x'}"], r"config\.search\.target\.a"),
        (["--zzz=1"], r"run: unknown argument '--zzz'; known: .*--workdir"),
        (["--shard=0/2"], r"run: unknown argument '--shard'"),
        (["stray"], r"unknown argument 'stray'"),
        (["--workdir"], r"run: .*workdir"),
        (["--workdir="], r"run: .*--workdir: must be a folder, is empty"),
        (
            ["--workdir=runs/a[1]"],
            r"--workdir: '\[' in the path of a workdir, runs/a\[1\]",
        ),
        (["--override=perhaps"], r"run: .*override"),
    ],
)
def test_mistakes_are_named(config_file: Path, rest: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        cli.parse(["run", *arguments(config_file, *rest)])
    assert "\n" not in str(caught.value)


def test_a_value_may_follow_a_space(config_file: Path) -> None:
    call = cli.parse(["run", "--config", str(config_file), "--workdir", "w"])
    assert call == cli.parse(["run", *arguments(config_file)])


def test_a_bare_name_is_a_target(config_file: Path) -> None:
    for name in ("messages", "1970-1989", "b, c"):
        flag = f"--config.search.target={name}"
        config = cli.parse(["run", *arguments(config_file, flag)]).config
        assert config is not None and config.search.target == {name: 1.0}


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == cli.main(["help", name]) == 0
    first, second = re.split("(?<!^)(?=usage: )", capsys.readouterr().out)
    assert first == second


def test_unknown_command_is_named() -> None:
    with pytest.raises(UserError, match=r"'trian'; did you mean train\?.*verify"):
        cli.parse(["trian"])
    with pytest.raises(UserError, match="command '--config=x'; known: prepare"):
        cli.parse(["--config=x", "run"])


def test_a_misspelled_flag_or_key_names_the_nearest(config_file: Path) -> None:
    for flag, nearest in (
        ("--overide", "--override"),
        ("--config.recipe.stesp=3", "steps"),
    ):
        with pytest.raises(UserError, match=rf"did you mean {nearest}\?"):
            cli.parse(["run", flag, *arguments(config_file)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nowhere\n", "line 1: ModuleNotFoundError: .*nowhere"),
        ("def get_config(arg=None):\n    1 / 0\n", "line 2: ZeroDivisionE"),
        ("def get_config(:\n", "SyntaxError"),
        ("x = 1\n", "get_config"),
        ("def get_config(arg=None):\n    return {}\n", "must return a ConfigD"),
        (
            "from jaxsim.config import default_config\n"
            "def get_config(arg=None):\n"
            "    default_config().model.dimm = 1\n",
            'line 3: AttributeError: Key "dimm" does not exist.*"dim"',
        ),
        (
            "from jaxsim.config import default_config\n"
            "def get_config(arg=None):\n"
            "    default_config().model.dim = 'wide'\n",
            "line 3: TypeError: .*'dim'",
        ),
    ],
)
def test_a_config_file_that_raises_is_named(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        cli.parse(["run", *arguments(path)])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_file_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"no such file: nowhere\.py"):
        cli.parse(["run", *arguments(Path("nowhere.py"))])


def test_the_config_of_a_workdir_is_no_program(tmp_path: Path) -> None:
    saved = tmp_path / "config.json"
    saved.write_text("{}")
    with pytest.raises(UserError, match=r"used without --config"):
        cli.parse(["run", *arguments(saved)])


def test_an_unknown_word_after_the_colon_is_named(root: Path) -> None:
    path = Path(f"{root}/configs/quickstart.py:smok")
    with pytest.raises(UserError, match=r"^--config: unknown argument 'smok'"):
        cli.parse(["run", *arguments(path)])


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (
            ["prepare", "--refreeze"],
            {"refreeze": True, "shard": None, "dry_run": False},
        ),
        (
            ["prepare", "--shard=1/4"],
            {"refreeze": False, "shard": (1, 4), "dry_run": False},
        ),
        (["train", "--shard=1/4"], {"shard": (1, 4)}),
        (["train"], {"shard": None}),
        (["search", "--min-effect=0.2%"], {"min_effect": 0.002, "override": False}),
        (["search", "--min-effect=0.01"], {"min_effect": 0.01, "override": False}),
        (
            ["score", "--mixtures=subsets:1-2", "--override"],
            {"mixtures": "subsets:1-2", "override": True, "documents": False},
        ),
    ],
)
def test_flags_of_commands(
    config_file: Path, argv: list[str], option: dict[str, Any]
) -> None:
    call = cli.parse([*argv, *arguments(config_file)])
    assert call.options == option


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--shard=4/4"],
        ["train", "--shard=one"],
        ["search", "--min-effect=much"],
        ["search", "--min-effect=-1%"],
        ["search", "--min-effect=nan"],
        ["validate", "--runs=only.csv"],
        ["validate", "--runs=no.csv,where.csv"],
    ],
)
def test_bad_flags_of_commands(config_file: Path, argv: list[str]) -> None:
    with pytest.raises(UserError, match=argv[1].partition("=")[0]):
        cli.parse([*argv, *arguments(config_file)])


def test_runs_are_two_files(config_file: Path, tmp_path: Path) -> None:
    files = [tmp_path / "mixtures.csv", tmp_path / "metrics.csv"]
    for file in files:
        file.touch()
    flag = f"--runs={files[0]},{files[1]}"
    call = cli.parse(["validate", flag, *arguments(config_file)])
    assert call.options["runs"] == tuple(files)
    with pytest.raises(UserError, match="must be two files"):
        cli.parse(["validate", f"--runs={files[0]}", *arguments(config_file)])


def test_config_of_the_workdir(config_file: Path, tmp_path: Path) -> None:
    config = cli.parse(["run", *arguments(config_file)]).config
    assert config is not None
    workdir = f"--workdir={tmp_path}"
    for command in ("score", "run"):
        with pytest.raises(UserError, match=r"there is no .*config\.json"):
            cli.parse([command, workdir])
    save_config(config, tmp_path / "config.json")
    assert cli.parse(["score", workdir]).config == config
    changed = cli.parse(["score", workdir, "--config.score.windows=7"]).config
    assert changed is not None
    assert changed.score.windows == 7
    assert cli.parse(["run", workdir]).config == config
    (tmp_path / "config.json").write_text('{"name": "x')
    with pytest.raises(DamagedError, match=r"config\.json: unreadable"):
        cli.parse(["score", workdir])


def test_the_bucket_of_a_saved_config_is_not_used(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The workdir may come from somebody else."""
    own = "--config.bucket=s3://own/pool"
    config = cli.parse(["run", *arguments(config_file), own]).config
    assert config is not None and config.bucket == "s3://own/pool"
    save_config(config, tmp_path / "config.json")
    workdir = f"--workdir={tmp_path}"
    for command, said in (("score", 1), ("search", 0)):
        read = cli.parse([command, workdir]).config
        assert read is not None and read.bucket == ""
        assert capsys.readouterr().err.count("s3://own/pool") == said
    asked = cli.parse(["score", workdir, "--config.bucket=s3://b/p"]).config
    assert asked is not None and asked.bucket == "s3://b/p"
    assert capsys.readouterr().err == ""


def test_each_command_calls_its_function(
    config_file: Path, commands: types.SimpleNamespace
) -> None:
    for name in cli.COMMANDS:
        if name == "doctor":
            continue
        calls: list[tuple[Any, ...]] = []
        setattr(commands, name, lambda *a, c=calls, **k: c.append((a, k)))
        bare = name in cli.WITHOUT_CONFIG
        argv = ["--workdir=w"] if bare else arguments(config_file)
        assert cli.main([name, *argv]) == 0
        ((given, options),) = calls
        assert given[-1] == Path("w")
        assert len(given) == (1 if bare else 2)
        # Which processes run it together is settled before the command.
        assert not set(options) & {"config", "workdir", "distributed"}


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (DamagedError("member x: digest differs"), 3, "member x: digest"),
        (UserError("row 3: sums to 0.97"), 2, "row 3: sums"),
        (KeyboardInterrupt(), 4, "rerun the same command to continue"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    sentence: str,
    commands: types.SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verify(workdir: Path) -> None:
        raise error

    commands.verify = verify
    assert cli.main(["verify", "--workdir=w"]) == code
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.parametrize("error", [DamagedError("x differs"), UserError("sums to 0")])
def test_a_document_on_stdout_says_why_a_command_ended(
    error: DamagedError | UserError,
    commands: types.SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verify(workdir: Path) -> None:
        say("a warning")
        raise error

    commands.verify = verify
    assert cli.main(["verify", "--workdir=w", "--json"]) == error.exit_code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "format": VERSION,
        "command": "verify",
        "error": {"message": str(error), "exit_code": error.exit_code},
    }
    assert captured.err.splitlines() == ["a warning", f"jaxsim: {error}"]
    assert cli.main(["verify", "--json"]) == 2  # before the command begins
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_details_are_for_those_who_ask(
    commands: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(workdir: Path) -> list[str]:
        detail("begins")
        show_table("", ["column"], [["cell"]])
        return ["base"]

    commands.verify = verify
    assert cli.main(["verify", "--workdir=w"]) == 0
    assert capsys.readouterr().out == "verify: 1 entry intact\n"
    assert cli.main(["verify", "--workdir=w", "--verbose"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("begins\n") and "cell" in said


def test_commands_in_messages_can_be_pasted(
    config_file: Path,
    commands: types.SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def score(*_: Any, **__: Any) -> None:
        raise UserError("no members: run `jaxsim train` or `jaxsim verify`")

    commands.score = score
    workdir = f"{tmp_path}/it's $HOME\n`a b`"
    given = [f"--config={config_file}", "--config.name=a b", f"--workdir={workdir}"]
    assert cli.main(["score", *given]) == 2
    train, verify = re.fullmatch(
        "jaxsim: no members: run `(.*)` or `(.*)`\n", capsys.readouterr().err, re.S
    ).groups()
    named, *flags = shlex.split(train)[1:]
    assert (named, sorted(flags)) == ("train", sorted(given))
    assert shlex.split(verify)[1:] == ["verify", f"--workdir={workdir}"]
    # Without a config file the one that trains is a blank to fill in.
    text = with_workdir("`jaxsim train` `jaxsim score --runs=A.csv,B.csv`", "a b")
    assert text == (
        "`jaxsim train --config=FILE.py '--workdir=a b'` "
        "`jaxsim score '--workdir=a b' --runs=A.csv,B.csv`"
    )


def test_unforeseen_errors_keep_their_traceback(
    commands: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(workdir: Path) -> None:
        raise ZeroDivisionError("by zero")

    commands.verify = verify
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify", "--workdir=w"])
    assert not capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify", "--workdir=w", "--json"])
    assert json.loads(capsys.readouterr().out)["error"] == {
        "message": "ZeroDivisionError: by zero",
        "exit_code": 1,
    }


def run(*argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jaxsim", *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell line in which $jaxsim is the program; prints the last exit code."""
    jaxsim = f"{sys.executable} -m jaxsim"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"jaxsim": jaxsim},
    )


def test_a_shell_completes_commands_and_flags(root: Path) -> None:
    pytest.importorskip("argcomplete")
    program = "exec 8>&1; $python -c 'import jaxsim.cli; jaxsim.cli.entry()' 9>&2 >&2"
    for line, expected in (
        ("jaxsim sea", "search"),
        ("jaxsim run --work", "--workdir"),
    ):
        asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
        done = subprocess.run(
            ["bash", "-c", program],
            cwd=root,
            capture_output=True,
            text=True,
            env=os.environ | asked | {"_ARGCOMPLETE": "1", "python": sys.executable},
        )
        assert done.stdout.strip() == expected


def test_closed_streams_are_dev_null(root: Path, tmp_path: Path) -> None:
    """A file opened later must not become stdout."""
    for command in (
        "$jaxsim --version >&-",
        "$jaxsim doctor >&- 2>&-",
        "$jaxsim doctor <&- >&- 2>&- ",
    ):
        done = shell(command, root)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell("$jaxsim run 2>&-", root)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize(
    ("command", "unbuffered"), [("--help", ""), ("doctor", ""), ("doctor", "1")]
)
def test_a_closed_pipe_ends_the_command_quietly(
    root: Path, command: str, unbuffered: str
) -> None:
    jaxsim = f"PYTHONUNBUFFERED={unbuffered} $jaxsim {command}"
    # The pipe is closed before anything is written.
    done = shell("{ sleep 0.5; " + jaxsim + "; echo $? >&2; } | true", root)
    assert done.stderr == "4\n"


@pytest.mark.parametrize("platforms", ["cuda", "rocm,cpu", "nothing"])
def test_a_missing_device_is_named(root: Path, platforms: str) -> None:
    plan = ("plan", "--config=configs/quickstart.py")
    done = run(*plan, cwd=root, JAX_PLATFORMS=platforms)
    if done.returncode == 0:
        pytest.skip("this machine has one")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"jaxsim: JAX_PLATFORMS={platforms}: ")
    assert "Traceback" not in done.stderr


def test_doctor_answers_where_much_is_wrong(root: Path, tmp_path: Path) -> None:
    """No device, no current folder, 64 files, a full stderr."""
    line = f"cd {tmp_path}; mkdir gone; cd gone; rmdir ../gone; ulimit -n 64; "
    line += f"PYTHONPATH={root} JAX_PLATFORMS=nothing $jaxsim doctor 2>/dev/full"
    done = shell(line, root)
    assert done.returncode == 0
    found = re.findall("^([a-z]+) +UNKNOWN: (.*)$", done.stdout, re.M)
    assert [name for name, _ in found] == ["devices", "disk"]
    assert found[0][1].startswith("JAX_PLATFORMS=nothing: ")
    assert "JAX" not in found[1][1]


def test_a_full_disk_is_one_sentence(root: Path) -> None:
    done = shell("PYTHONUNBUFFERED= $jaxsim --version >/dev/full", root)
    assert done.returncode == 1
    assert re.fullmatch("jaxsim: stdout: No space left on device; .*\n", done.stderr)
    assert shell("$jaxsim run 2>/dev/full", root).returncode == 2


def test_a_letter_that_the_terminal_lacks_is_escaped(root: Path) -> None:
    code = "from jaxsim import cli; cli.main = lambda _: print('é', 'λ'); cli.entry()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.stdout == b"\xe9 \\u03bb\n"


def test_a_stopped_command_does_not_wait_for_threads(root: Path) -> None:
    code = """if True:
        import threading, time
        from jaxsim import cli

        waiting = threading.Thread(target=time.sleep, args=(300,))
        cli.main = lambda _: waiting.start() or 4
        cli.entry()
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60)
    assert done.returncode == 4


def test_commands_in_printed_lines_can_be_pasted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with commands_for(Path("my runs"), "--config=a.py"):
        say("run `jaxsim train`, or `jaxsim verify --workdir=b`")
    say("run `jaxsim train`")
    assert capsys.readouterr().out.splitlines() == [
        "run `jaxsim train --config=a.py '--workdir=my runs'`, or "
        "`jaxsim verify --workdir=b`",
        "run `jaxsim train`",
    ]


def test_a_config_finds_what_is_beside_it_and_nothing_else(
    root: Path, tmp_path: Path
) -> None:
    """However jaxsim is started: `python -m` searches the current folder."""
    for folder, name in (("a", "beside"), ("b", "elsewhere")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").touch()
    config = tmp_path / "a" / "config.py"
    text = "import beside\ndef get_config(arg=None):\n    import elsewhere\n"
    config.write_text(text)
    argv = ("plan", "--config=../a/config.py")
    done = run(*argv, cwd=tmp_path / "b", PYTHONPATH=str(root))
    assert "config.py, line 3: ModuleNotFoundError: No module" in done.stderr
    assert "'elsewhere'" in done.stderr


def test_a_tilde_is_the_home(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["--config=~/small.py", "--workdir=~/w", "--mixtures=~/m.csv"]
    call = cli.parse(["score", *given, "--config.corpus.partitions.a.path=~/text"])
    assert call.workdir == tmp_path / "w"
    assert call.options["mixtures"] == f"{tmp_path}/m.csv"
    assert call.config is not None
    assert call.config.corpus.partitions["a"].path == f"{tmp_path}/text"


def test_a_mistake_in_a_real_process(root: Path) -> None:
    done = run(
        "run",
        "--config=configs/quickstart.py:smoke",
        "--workdir=w",
        "--config.model.dimm=3",
        cwd=root,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("jaxsim: --config.model.dimm: unknown key")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_doctor_in_a_real_process(root: Path, tmp_path: Path) -> None:
    done = run("doctor", f"--workdir={tmp_path / 'new'}", cwd=root)
    assert done.returncode == 0, done.stderr
    for line in ("jaxlib", "devices", "memory", "disk", "compilation cache"):
        assert f"\n{line} " in done.stdout
    assert "\ntensorflow           not imported" in done.stdout
    assert "CANNOT" not in done.stdout
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["import jaxsim", "jaxsim.cli.main(['--help'])"])
def test_help_and_import_wait_for_no_library(root: Path, what: str) -> None:
    """JAX alone takes more than the second that either may take."""
    code = f"import jaxsim.cli, sys; {what}; sys.exit(str({HEAVY} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True)
    assert done.stderr == b"set()\n"


def test_no_command_line_needs_tensorflow_or_a_device(root: Path) -> None:
    code = (
        "import sys, json; from jaxsim import cli; "
        "cli.parse(['run', '--config=configs/quickstart.py', '--workdir=w']); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert not {"tensorflow", "jax"} & set(loaded)


def _array(task, low, high, count=None):
    values = (task, count or high - low + 1, low, high)
    names = ("ID", "COUNT", "MIN", "MAX")
    return {
        f"SLURM_ARRAY_TASK_{name}": str(value)
        for name, value in zip(names, values, strict=True)
    }


def test_shards_cover_all_runs_once():
    shares = [cli.parse_shard("slurm", _array(task, 3, 6)) for task in range(3, 7)]
    assert shares == [(0, 4), (1, 4), (2, 4), (3, 4)]
    # One task that is sent again alone does what all of them left.
    assert cli.parse_shard("slurm", _array(5, 5, 5)) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "use it in a job array"),
        (_array("", 0, 3), "use it in a job array"),
        (_array(1, 1, 7, count=3), "3 tasks numbered from 1 to 7"),
        (_array(0, 0, 6, count=4), r"as in --array=0-3"),
        (_array(9, 0, 3), "numbered from 0 to 3"),
    ],
)
def test_an_array_without_consecutive_numbers_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        cli.parse_shard("slurm", environment)


def test_the_environment_is_used_only_for_slurm():
    assert cli.parse_shard("1/2", _array(3, 0, 7)) == (1, 2)
