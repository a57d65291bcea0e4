"""The command line: parses arguments, then calls a function of `jaxsim.commands`.

Every mistake of the user ends in one sentence and exit code 2.
"""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import importlib.util
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import config_path

from jaxsim import __version__
from jaxsim.config import Config, from_config_dict, load_config
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.signals import interrupt_on_sigterm

if TYPE_CHECKING:
    from jaxsim.distributed import ProcessGroup

COMMANDS: Mapping[str, str] = {
    "prepare": "Turn documents into rows of tokens.",
    "base": "Train the base model.",
    "train": "Train every member that the pool lacks.",
    "score": "Predict the losses of a table of mixtures.",
    "validate": "Train reference runs; report agreement; calibrate.",
    "search": "Propose mixtures for an objective under constraints.",
    "report": "Write the report from the results on disk.",
    "verify": "Re-hash the pool and list what is damaged.",
    "run": "Run all steps, prepare to report, that the config asks for.",
    "plan": "Say what fits on some hardware, and what it costs.",
    "doctor": "Print devices, versions, memory and disk, for bug reports.",
}
WITHOUT_CONFIG = frozenset({"verify", "doctor"})
_SAVED_CONFIG = frozenset({"score", "validate", "search", "report", "plan"})
_WITHOUT_WORKDIR = frozenset({"plan", "doctor"})
_PROCESSES = ("distributed", "coordinator", "processes", "process")
_ABOUT = """\
jaxsim predicts which data mixture a language model should be trained on. It
trains one copy of a base model on each part of your data, averages the copies'
parameters to predict the loss of any mixture, and searches for the best one.
Training a few mixtures for real shows how far the predictions can be trusted.
"""
_MORE = """\
words:
  base model     the model that all training starts from
  partition      a named set of training documents: a field, a period, a source
  unit           a partition, or a numbered piece of a large one
  member         the base model after training on one unit
  mixture        weights over members that sum to 1: shares of training data
  merge          the base plus the weighted mean of the members' changes to it
  predictor      estimates a mixture's loss without training, as merge does
  reference run  a model really trained on a mixture, to check the predictions
  domain         a named set of evaluation data
  tie set        the mixtures that cannot be told apart from the best one

exit codes:
  0 done   2 your mistake   3 damaged data or pool   4 stopped, can be rerun
  5 hung and gave up   1 anything else

example:
  jaxsim run --config=configs/quickstart.py --workdir=runs/quickstart

`jaxsim COMMAND --help` explains a command. All of them can be killed and rerun;
completed work is kept.
"""
_OVERRIDES = """\
--config.KEY=VALUE changes one key of the config and may be repeated, as in
--config.recipe.steps=64. jaxsim/config.py lists all keys with their defaults.
"""
_FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@dataclasses.dataclass(frozen=True)
class Call:
    """A parsed command line."""

    command: str
    config: Config | None
    workdir: Path | None
    options: dict[str, Any]
    group: "ProcessGroup | None" = None


class _Parser(argparse.ArgumentParser):
    """Raises a `UserError` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('jaxsim ')}: {message}")


def entry() -> int:
    """The console script."""
    _open_standard_streams()
    code = main(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the command has ended
    return code


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    return _guarded(lambda: _main(argv))


def _main(argv: Sequence[str]) -> None:
    if not argv or {"--help", "-h", "--version"} & set(argv):
        with contextlib.suppress(SystemExit):  # argparse prints, then exits
            parse(argv or ["--help"])
        sys.stdout.flush()
        return
    call = parse(argv)
    interrupt_on_sigterm()
    absl_logging.set_verbosity(absl_logging.WARNING)
    from jaxsim.devices import use_compilation_cache

    use_compilation_cache()
    if call.group is None:
        _execute(call)
    else:
        _execute_in_group(call, call.group)
    sys.stdout.flush()


def _guarded(action: Callable[[], None]) -> int:
    """Runs an action; prints its error, if any, and returns the exit code."""
    try:
        action()
    except JaxsimError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _drop_closed_streams():
            return Preempted.exit_code  # as in `jaxsim ... | head`
        if error.errno not in _FULL_OR_CLOSED:
            raise
        return _failed(
            f"{error.filename or 'a file'}: {error.strerror}; fix this and "
            "rerun; completed work is kept",
            1,
        )
    except (RuntimeError, AssertionError):
        from jaxsim.devices import device_problem

        if not (problem := device_problem()):
            raise
        return _failed(problem, UserError.exit_code)
    except KeyboardInterrupt:  # Ctrl-C, or SIGTERM outside of training
        return _failed(
            "interrupted; rerun the same command to continue", Preempted.exit_code
        )
    return 0


def _failed(message: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(f"jaxsim: {message}", file=sys.stderr, flush=True)
    return code


def _open_standard_streams() -> None:
    """Opens /dev/null for a closed stdin, stdout or stderr (`>&-`).

    Otherwise the next file that is opened gets its number, and the output of
    libraries is written to that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode))  # noqa: SIM115


def _drop_closed_streams() -> bool:
    """Points stdout and stderr to /dev/null if their reader has exited."""
    dropped = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        if any(e & (select.POLLERR | select.POLLHUP) for _, e in poll.poll(0)):
            # The rest of its buffer would fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            dropped = True
    return dropped


def parse(argv: Sequence[str]) -> Call:
    """Parses the arguments of `jaxsim`.

    Raises:
      UserError: names what the user has to change.
      SystemExit: help or version was requested and is printed.
    """
    name = argv[0]
    if name not in (*COMMANDS, "--help", "-h", "--version"):
        what = "flag" if name.startswith("-") else "command"
        raise UserError(
            f"unknown {what} {name!r}; {_nearest(name, COMMANDS)}one of "
            f"{', '.join(COMMANDS)}"
        )
    overrides = [a for a in argv if re.match(r"--?(no)?config\.", a)]
    found, rest = _parser().parse_known_args([a for a in argv if a not in overrides])
    options = vars(found)
    del options["command"]
    for argument in rest:
        flag = argument.partition("=")[0]
        if not flag.startswith("-"):
            raise UserError(f"{name}: unexpected argument {argument!r}")
        known = [f"--{option}" for option in options]
        raise UserError(
            f"{name}: unknown flag {flag}; {_nearest(flag, known)}known here: "
            f"{', '.join(known)}"
        )
    workdir = _workdir(name, options.pop("workdir"))
    config = None
    if name not in WITHOUT_CONFIG:
        given = options.pop("config")
        node = _load_node(name, given, workdir)
        saved = ""
        if not given:  # the workdir may come from somebody else
            saved, node.bucket = node.bucket, ""
        _apply(node, overrides)
        config = from_config_dict(node, text=name != "plan")
        if saved and not config.bucket and name in ("score", "validate"):
            print(
                f"jaxsim: {workdir}/config.json names the bucket {saved}, "
                "which is not used; to use it, give --config=FILE.py or "
                "--config.bucket=URL",
                file=sys.stderr,
            )
    elif overrides:
        raise UserError(f"{name}: takes no config, but {overrides[0]} is given")
    group = None
    if "distributed" in options:
        from jaxsim.distributed import process_group

        group = process_group(**{flag: options.pop(flag) for flag in _PROCESSES})
        if group is not None and config is not None and config.bucket:
            raise UserError(
                f"config.bucket={config.bucket!r}: the processes of one run share "
                "a workdir, on a file system that all of them see; leave the bucket "
                "out"
            )
    return Call(name, config, workdir, options, group)


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands and flags except `--config.KEY=VALUE`."""
    parser = _Parser(
        prog="jaxsim",
        usage="jaxsim COMMAND --config=FILE.py[:ARG] --workdir=DIR [flags]",
        description=_ABOUT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxsim {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    parsers = {}
    for name, summary in COMMANDS.items():
        takes_config, saved = name not in WITHOUT_CONFIG, name in _SAVED_CONFIG
        optional_workdir = name in _WITHOUT_WORKDIR
        config = "--config=FILE.py[:ARG]" * takes_config
        usage = f"[{config}]" if saved else config
        usage += " [--workdir=DIR]" if optional_workdir else " --workdir=DIR"
        parsers[name] = command = commands.add_parser(
            name,
            prog=f"jaxsim {name}",
            usage=f"jaxsim {name} {usage.strip()} [flags]",
            help=summary,
            description=summary,
            epilog=_OVERRIDES if takes_config else None,
            allow_abbrev=False,
        )
        if takes_config:
            default = " (default: DIR/config.json)" * saved
            command.add_argument(
                "--config",
                metavar="FILE.py[:ARG]",
                help=f"The configuration, an ml_collections file{default}.",
            )
        command.add_argument(
            "--workdir",
            metavar="DIR",
            help="The folder that keeps all results." + " Optional." * optional_workdir,
        )

    def add(commands: str, flag: str, help: str, **options: Any) -> None:
        for name in commands.split():
            parsers[name].add_argument(flag, help=help, **options)

    add(
        "prepare",
        "--refreeze",
        "Start a new pool: freeze base text, tokenizer and token budget again "
        "(default: keep what the first prepare froze).",
        action="store_true",
    )
    add(
        "train",
        "--shard",
        "Train only share I of N, counted from 0; 'slurm' takes both from the job "
        "array (default: train all).",
        metavar="I/N",
        type=lambda text: parse_shard(text, os.environ),
    )
    add(
        "base train",
        "--distributed",
        "Join the processes that JAX detects: a TPU slice, a Slurm step or Open MPI "
        "(default: off, one process).",
        metavar="auto",
    )
    add(
        "base train",
        "--coordinator",
        "Join by hand: the address of process 0, the same for all.",
        metavar="HOST:PORT",
    )
    for flag, metavar, help in (
        ("--processes", "N", "Join by hand: how many processes there are."),
        ("--process", "I", "Join by hand: which one this is, from 0 to N-1."),
    ):
        whole = _number(flag, int, lambda n: n >= 0, "a whole number, from 0")
        add("base train", flag, help, metavar=metavar, type=whole)
    add(
        "score validate search run",
        "--override",
        "Go on although members are damaged or do not match, and mark every result "
        "(default: stop with exit code 3).",
        action="store_true",
    )
    add(
        "score",
        "--mixtures",
        "The mixtures: subsets:1-3 (equal weights), dirichlet:1000 (random weights) "
        "or FILE.csv (default: config.score.mixtures).",
        metavar="TABLE",
    )
    add(
        "validate",
        "--runs",
        "Compare with your own runs, trained elsewhere, instead of training reference "
        "runs.",
        metavar="MIXTURES.csv,METRICS.csv",
        type=_two_files,
    )
    add(
        "validate",
        "--mixtures",
        "Train the mixtures of this file, such as DIR/search/best.csv, and compare "
        "them with their predictions.",
        metavar="FILE.csv",
        type=_file,
    )
    of_loss = "a share of the loss, as in 0.2%"
    add(
        "search",
        "--min-effect",
        "The smallest difference in loss that matters, as in 0.2%% (default: "
        "config.search.min_effect).",
        metavar="SHARE",
        type=_number("--min-effect", _percent, lambda x: 0 <= x < 1, of_loss),
    )
    add(
        "plan",
        "--topology",
        "A TPU topology such as v5e:16x16 (default: the devices of this machine).",
        metavar="NAME",
    )
    add(
        "plan",
        "--members",
        "The number of members (default: what the prepared text or the config says).",
        metavar="N",
        type=_number("--members", int, lambda n: n > 0, "a number, as in 32"),
    )
    of_peak = "a share of the peak rate, as in 0.4"
    add(
        "plan",
        "--utilization",
        "The share of the peak rate that programs reach (default: 0.4).",
        metavar="SHARE",
        type=_number("--utilization", float, lambda x: 0 < x <= 1, of_peak),
    )
    return parser


def _number(
    flag: str,
    convert: Callable[[str], float],
    holds: Callable[[float], bool],
    must_be: str,
) -> Callable[[str], float]:
    """Returns a parser for the value of a flag."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if holds(value := convert(text)):
                return value
        raise UserError(f"{flag}={text}: must be {must_be}")

    return parse


def _percent(text: str) -> float:
    number = text.removesuffix("%")
    return float(number) / (1 if number == text else 100)


def _two_files(text: str) -> tuple[Path, Path]:
    names = text.split(",")
    if len(names) != 2 or not all(names):
        raise UserError(f"--runs={text}: must be two files, MIXTURES.csv,METRICS.csv")
    for name in names:
        if not Path(name).is_file():
            raise UserError(f"--runs={text}: no such file: {name}")
    return Path(names[0]), Path(names[1])


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise UserError(f"no such file: {text}")
    return Path(text)


def parse_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Parses '2/8' as (2, 8); 'slurm' takes both numbers from a job array.

    Raises:
      UserError: it is neither, or there is no job array numbered without a gap.
    """
    if text == "slurm":
        return _slurm_share(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(
            f"--shard={text}: must be i/n with i from 0 to n-1, as in 0/4, or slurm"
        )
    return int(match[1]), int(match[2])


def _slurm_share(environment: Mapping[str, str]) -> tuple[int, int]:
    array = "SLURM_ARRAY_TASK_"
    try:
        task, count, low, high = (
            int(environment[array + name]) for name in ("ID", "COUNT", "MIN", "MAX")
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"--shard=slurm: {array}ID, COUNT, MIN and MAX are not set; use "
            "it in a job array (sbatch --array=0-7), or give --shard=i/n"
        ) from error
    # For an array of 1,3,7 or 0-6:2 the share of a task is unknown.
    if high - low + 1 != count or not low <= task <= high:
        raise UserError(
            f"--shard=slurm: the array has {count} tasks numbered from {low} "
            f"to {high}; number them without a gap, as in --array=0-{count - 1}"
        )
    return task - low, count


def _workdir(name: str, text: str | None) -> Path | None:
    if not text:
        if name in _WITHOUT_WORKDIR:
            return None
        raise UserError(f"{name}: --workdir=DIR is missing")
    if found := re.search(r"[*?\[\]]", str(Path(text).absolute())):
        raise UserError(
            f"--workdir={text}: {found[0]!r} in the path of a workdir; "
            "Orbax reads it as a pattern. Use another folder"
        )
    return Path(text)


def _execute(call: Call) -> None:
    if call.command == "doctor":
        from jaxsim.doctor import doctor

        doctor(call.workdir)
        return
    from jaxsim import commands

    function = getattr(commands, call.command)
    if call.config is None:
        function(call.workdir, **call.options)
    else:
        function(call.config, call.workdir, **call.options)


def _execute_in_group(call: Call, group: "ProcessGroup") -> None:
    """Runs the command as one process of a group; it ends at once if it fails."""
    from jaxsim import distributed

    # Python handles no signal while `join` waits.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    distributed.join(group)
    interrupt_on_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            if not distributed.is_lead():  # process 0 prints for all
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            code = _guarded(lambda: _execute(_as_process_0(call)))
    # The others cannot continue without this process: it must not hang.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    if code:
        distributed.leave(code)


def _as_process_0(call: Call) -> Call:
    """The call with process 0's config; other processes may see other files."""
    from jaxsim.distributed import from_lead

    assert call.config is not None  # both commands need one
    data = from_lead(dataclasses.asdict(call.config))
    config = from_config_dict(config_dict.ConfigDict(data))
    return dataclasses.replace(call, config=config)


def _load_node(
    name: str, argument: str | None, workdir: Path | None
) -> config_dict.ConfigDict:
    """Loads the configuration, before overrides, from `--config` or the workdir."""
    if argument:
        return _run_config_file(argument)
    if name not in _SAVED_CONFIG or workdir is None:
        raise UserError(f"{name}: --config=FILE.py is missing")
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{name}: --config=FILE.py is missing, and there is no {path}")
    saved = dataclasses.asdict(load_config(path))
    return config_dict.ConfigDict(saved).lock()


def _run_config_file(argument: str) -> config_dict.ConfigDict:
    """Calls `get_config` of the file in FILE.py[:ARG]."""
    file, _, word = argument.partition(":")
    if not Path(file).is_file():
        raise UserError(f"--config={argument}: no such file: {file}")
    spec = importlib.util.spec_from_file_location("jaxsim_config_file", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={argument}: must be a Python file, FILE.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        node = module.get_config(word or None)
    except JaxsimError:
        raise
    except Exception as error:  # the file is the user's code
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == spec.origin]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(
            f"{where}: {type(error).__name__}: {_sentence(error)}"
        ) from error
    if not isinstance(node, config_dict.ConfigDict):
        raise UserError(
            f"{file}: get_config must return a ConfigDict, "
            f"returns {type(node).__name__}"
        )
    return node.lock()


def _apply(node: config_dict.ConfigDict, overrides: Sequence[str]) -> None:
    """Applies `--config.a.b=value`."""
    for argument in overrides:
        _expect_key(node, argument.split("=")[0].partition(".")[2])
    argv = ["jaxsim", *overrides]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", node, flag_values=values, sys_argv=argv
        )
        values(argv)
    except (flags.Error, TypeError, ValueError, KeyError) as error:
        raise UserError(_sentence(error)) from error


def _expect_key(node: config_dict.ConfigDict, key: str) -> None:
    try:
        parts = config_path.split(key)
    except ValueError as error:
        raise UserError(
            f"--config.{key}: not a key; write a name with special characters as in "
            """'--config.corpus.domains["a-name"].path=...'"""
        ) from error
    if re.search(r"\s", key):  # absl allows no space in the name of a flag
        raise UserError(
            f"--config.{key}: a name with spaces cannot be set here; "
            "set it in the config file"
        )
    holder: Any = node
    for part in parts:
        if not isinstance(holder, config_dict.ConfigDict):
            raise UserError(f"--config.{key}: unknown key {part!r}")
        if part not in holder:
            raise UserError(
                f"--config.{key}: unknown key {part!r}; "
                f"{_nearest(part, holder)}known there: "
                f"{', '.join(holder) or 'none'}"
            )
        holder = holder[part]


def _sentence(error: BaseException) -> str:
    """An error's message on one line; without the fields that ConfigDict lists."""
    message: Any = error
    while isinstance(message, BaseException) and message.args:
        message = message.args[0]
    fields = re.compile(r' Other fields present: ".*"(?=\n|\Z)', re.S)
    return " ".join(fields.sub("", str(message)).split())


def _nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean ...? ' if a known word is similar, or ''."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]}? " if close else ""
