"""The command line: parses arguments, then calls a function of `jaxsim.commands`.

Every mistake of the user ends in one sentence and exit code 2.
"""

import argparse
import contextlib
import dataclasses
import errno
import importlib
import io
import json
import os
import re
import runpy
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
from jaxsim.errors import (
    SAVED,
    JaxsimError,
    Preempted,
    UserError,
    commands_for,
    nearest,
    pasteable,
)
from jaxsim.log import showing_details
from jaxsim.records import MAY_NOT_WRITE, VERSION, free_bytes
from jaxsim.signals import interrupt_on_sigterm

if TYPE_CHECKING:
    from jaxsim.distributed import ProcessGroup

COMMANDS: Mapping[str, str] = {
    "prepare": "Turn documents into rows of tokens.",
    "base": "Import the base model, or train it.",
    "train": "Train every member that the pool lacks.",
    "score": "Predict the losses of a table of mixtures.",
    "validate": "Train reference runs; report agreement; calibrate.",
    "search": "Propose mixtures for an objective under constraints.",
    "report": "Write the report from the results on disk.",
    "export": "Write a model or a mixture for other people's tools.",
    "verify": "Re-hash the pool and list what is damaged.",
    "run": "Run all steps, prepare to report, that the config asks for.",
    "plan": "Say what fits on some hardware, and what it costs.",
    "doctor": "Print devices, versions, memory and disk, for bug reports.",
}
WITHOUT_CONFIG = frozenset({"export", "verify", "doctor"})
# They read what is there, or copies of it: a bucket would not be used.
_WITHOUT_BUCKET = ("search", "report", "plan")
_WITH_CONFIG = " ".join(name for name in COMMANDS if name not in WITHOUT_CONFIG)
_WITHOUT_WORKDIR = ("plan", "doctor")
# "COMMANDS FLAG=VALUE" and its help; a flag without a value is a switch.
_FLAGS: Mapping[str, str] = {
    f"{_WITH_CONFIG} --config=FILE.py": "The configuration, an ml_collections file; "
    "FILE.py:ARG gives it an argument (default: DIR/config.json).",
    f"{' '.join(COMMANDS)} --workdir=DIR": "The folder that keeps all results.",
    "prepare --refreeze": "Start a new pool: freeze base text, tokenizer and token "
    "budget again (default: keep what the first prepare froze).",
    "prepare --dry-run": "Only say what it would read and leave out, from a sample, "
    "with all that has to be changed; write nothing.",
    "prepare --shard=I/N": "Read only share I of N of the files, counted from 0, for a "
    "later `prepare` without it; 'slurm' as in train (default: read all).",
    "train --shard=I/N": "Train only share I of N, counted from 0; 'slurm' takes both "
    "from the job array (default: train all).",
    "base train --distributed=auto": "Join the processes that JAX detects: a TPU "
    "slice, a Slurm step or Open MPI (default: off, one process).",
    "base train --coordinator=HOST:PORT": "Join by hand: the address of process 0, "
    "the same for all.",
    "base train --processes=N": "Join by hand: how many processes there are.",
    "base train --process=I": "Join by hand: which one this is, from 0 to N-1.",
    "score validate search run export --override": "Go on although members are "
    "damaged or do not match, and mark every result (default: stop with exit code 3).",
    "score --mixtures=TABLE": "The mixtures: subsets or subsets:1-3 (equal weights), "
    "dirichlet:1000 (random weights) or FILE.csv; more than config.score.merges are "
    "predicted in closed form (default: config.score.mixtures).",
    "score --documents": "Also write the merges' losses by document, as "
    "DIR/scores/TABLE.documents.parquet (default: by domain alone).",
    "validate --runs=MIXTURES.csv,METRICS.csv": "Compare with your own runs, trained "
    "elsewhere, instead of training reference runs.",
    "validate --mixtures=FILE.csv": "Train the mixtures of this file, such as "
    "DIR/search/best.csv, and compare them with their predictions.",
    "search --min-effect=PERCENT": "The smallest difference in loss that matters, as "
    "in 0.2%% (default: config.search.min_effect).",
    "export --what=NAME": "What: base, a member or another entry of the pool, "
    "uniform, proportional, macro, best (of the last search), or FILE.csv:ROW.",
    "export --to=FOLDER": "Where to write it; for a model, a new folder.",
    "export --dtype=TYPE": "Of the weights: float32, or bfloat16, which loses about "
    "3 %% of what distinguishes a member from the base model (default: float32).",
    "export --recipe=TOOL": "Instead of a model, write the mixture: json (shares), "
    "olmo-core, datasets (for interleave_datasets) or mergekit (a merge of members "
    "that were exported to FOLDER).",
    f"{' '.join(COMMANDS)} --verbose": "Show all tables and lines that a screen has no "
    "room for (default: one screen).",
    f"{' '.join(COMMANDS)} --json": "Print the result as one JSON document on stdout, "
    "and everything else on stderr; with --help, its JSON Schema.",
    "plan --topology=NAME": "A TPU topology such as v5e:16x16 (default: the devices "
    "of this machine).",
    "plan --members=N": "The number of members (default: what the prepared text or "
    "the config says).",
    "plan --utilization=SHARE": "The share of the peak rate that programs reach "
    "(default: 0.4).",
}
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
_ASKING = {"--help", "-h", "--version"}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclasses.dataclass(frozen=True)
class Call:
    """A parsed command line."""

    command: str
    config: Config | None
    workdir: Path | None
    options: dict[str, Any]
    config_flags: tuple[str, ...] = ()  # as they were given
    verbose: bool = False
    json: bool = False
    group: "ProcessGroup | None" = None


class _Parser(argparse.ArgumentParser):
    """Raises a `UserError` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('jaxsim ')}: {message}")


def entry() -> int:
    """The console script."""
    # Of a closed stream (`>&-`) the next file that is opened would get the number, and
    # with it the output of libraries.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
            os.set_inheritable(number, True)
    # A letter that the terminal does not have is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(_parser())
    code = main(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the command has ended
    if code == Preempted.exit_code:
        # A normal exit would wait for threads that save something, up to five minutes.
        # What is not complete on disk does not count.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    command = argv[0] if "--json" in argv else ""
    try:
        return _guarded(lambda: _main(argv), command)
    except Exception as error:
        if command:
            _print_error(command, f"{type(error).__name__}: {error}", 1)
        raise


def _main(argv: Sequence[str]) -> None:
    if not argv or argv[0] == "help" or _ASKING & set(argv):
        if "--json" in argv and (named := [a for a in argv if a in COMMANDS]):
            from jaxsim import results

            _print_json(results.schema(named[0]))
            return
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


def _guarded(action: Callable[[], None], command: str = "") -> int:
    """Runs an action; prints its error, if any, and returns the exit code.

    With a `command` the error is also a JSON document on stdout.
    """
    try:
        action()
        return 0
    except JaxsimError as error:
        message, code = str(error), error.exit_code
    except OSError as error:
        dropped = _drop_broken_streams()
        if isinstance(error, BrokenPipeError) and dropped:
            return Preempted.exit_code  # as in `jaxsim ... | head`
        what = f"{error.filename or dropped or 'a file or stdout'}: {error.strerror}"
        if error.errno in MAY_NOT_WRITE:
            message = f"{what}; make it writable, or work on a copy of the workdir"
            code = UserError.exit_code
        elif error.errno in _NO_ROOM:
            if error.filename and " are free" not in what:
                free = free_bytes(Path(str(error.filename)))
                what += f", and {free:,} bytes are free"
            message, code = f"{what}; make room and rerun; completed work is kept", 1
        else:
            raise
    except (RuntimeError, AssertionError):
        from jaxsim.devices import device_problem

        message, code = device_problem(), UserError.exit_code
        if not message:
            raise
    except KeyboardInterrupt:  # Ctrl-C, or SIGTERM outside of training
        message = "interrupted; rerun the same command to continue"
        code = Preempted.exit_code
    try:
        print(f"jaxsim: {message}", file=sys.stderr, flush=True)
        if command:
            _print_error(command, message, code)
    except OSError:
        _drop_broken_streams()
    return code


def _drop_broken_streams() -> str:
    """Points stdout and stderr to /dev/null where nobody reads, or a disk is full.

    The rest of their buffers would fail again at exit. Returns their names.
    """
    dropped = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        poll = select.poll()
        try:
            poll.register(stream, select.POLLOUT)
            if any(e & (select.POLLERR | select.POLLHUP) for _, e in poll.poll(0)):
                raise BrokenPipeError
            stream.flush()
        except io.UnsupportedOperation:  # a stream in memory
            continue
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            dropped.append(name)
    return " and ".join(dropped)


def parse(argv: Sequence[str]) -> Call:
    """Parses the arguments of `jaxsim`.

    Raises:
      UserError: names what the user has to change.
      SystemExit: help or version was requested and is printed.
    """
    if argv[0] == "help":
        argv = [*argv[1:2], "--help"]
    name = argv[0]
    if name not in (*COMMANDS, *_ASKING):
        raise UserError(f"unknown command {_unknown(name, COMMANDS)}")
    overrides = [a for a in argv if re.match(r"--?(no)?config\.", a)]
    found, rest = _parser().parse_known_args([a for a in argv if a not in overrides])
    options = vars(found)
    del options["command"]
    if rest:
        known = [f"--{option.replace('_', '-')}" for option in options]
        unknown = _unknown(rest[0].partition("=")[0], known)
        raise UserError(f"{name}: unknown argument {unknown}")
    workdir, config = options.pop("workdir"), None
    config_flags = tuple(overrides)
    if workdir is None and name not in _WITHOUT_WORKDIR:
        raise UserError(f"{name}: --workdir=DIR is missing")
    if name not in WITHOUT_CONFIG:
        if file := options.pop("config"):
            config_flags = (f"--config={file}", *overrides)
        config = _config(name, file, workdir, overrides)
    elif overrides:
        raise UserError(f"{name}: takes no config, but {overrides[0]} is given")
    group = None
    if "distributed" in options:
        from jaxsim.distributed import process_group

        names = ("distributed", "coordinator", "processes", "process")
        group = process_group(*map(options.pop, names))
        if group is not None and config is not None and config.bucket:
            raise UserError(
                f"config.bucket={config.bucket!r}: the processes of one run share "
                "a workdir, on a file system that all of them see; leave the bucket "
                "out"
            )
    verbose, as_json = options.pop("verbose"), options.pop("json")
    return Call(name, config, workdir, options, config_flags, verbose, as_json, group)


def _unknown(word: str, known: Iterable[str]) -> str:
    """The word, the nearest known one if one is similar, and all known ones."""
    return f"{word!r}; {nearest(word, known)}known: {', '.join(known) or 'none'}"


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
        parsers[name] = commands.add_parser(
            name,
            prog=f"jaxsim {name}",
            help=summary,
            description=summary,
            epilog=_OVERRIDES if name not in WITHOUT_CONFIG else None,
            allow_abbrev=False,
        )
    types = {
        "DIR": _workdir,
        "I/N": parse_shard,
        "N": _number(int, lambda n: 0 < n <= 10**5, "a whole number, 1 to 100,000"),
        "I": _number(int, lambda n: 0 <= n < 10**5, "a whole number, from 0"),
        "MIXTURES.csv,METRICS.csv": _two_files,
        "FILE.csv": _file,
        "TABLE": os.path.expanduser,
        "FOLDER": _folder,
        "TYPE": _word("float32", "bfloat16"),
        "TOOL": _word("json", "olmo-core", "datasets", "mergekit"),
        "PERCENT": _number(_percent, lambda x: 0 <= x < 1, "a share, as in 0.2%"),
        "SHARE": _number(float, lambda x: 0 < x <= 1, "a share, as in 0.4"),
    }
    for spec, text in _FLAGS.items():
        *names, flag = spec.split()
        flag, _, value = flag.partition("=")
        kind: dict[str, Any] = {"action": "store_true"}
        if value:
            kind = {"metavar": value, "type": types.get(value)}
        for name in names:
            parsers[name].add_argument(flag, help=text, **kind)
    return parser


def _number(
    convert: Callable[[str], float], holds: Callable[[float], bool], must_be: str
) -> Callable[[str], float]:
    """Returns a parser for the value of a flag."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if holds(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"must be {must_be}, is {text!r}")

    return parse


def _word(*known: str) -> Callable[[str], str]:
    """Returns a parser for a flag whose value is one of these words."""

    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(known)}, is {text!r}"
            )
        return text

    return parse


def _percent(text: str) -> float:
    number = text.removesuffix("%")
    return float(number) / (1 if number == text else 100)


def _two_files(text: str) -> tuple[Path, Path]:
    names = text.split(",")
    if len(names) != 2:
        raise argparse.ArgumentTypeError(
            f"must be two files, MIXTURES.csv,METRICS.csv, is {text!r}"
        )
    return _file(names[0]), _file(names[1])


def _file(text: str) -> Path:
    path = Path(os.path.expanduser(text))
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must be a folder, is empty")
    return Path(os.path.expanduser(text))


def _workdir(text: str) -> Path:
    path = _folder(text)  # shells leave --workdir=~/a as it is
    if found := re.search(r"[*?\[\]]", str(path.absolute())):
        raise argparse.ArgumentTypeError(
            f"{found[0]!r} in the path of a workdir, {text}; Orbax reads it as a "
            "pattern. Use another folder"
        )
    return path


def parse_shard(
    text: str, environment: Mapping[str, str] = os.environ
) -> tuple[int, int]:
    """Parses '2/8' as (2, 8); 'slurm' takes both numbers from a job array.

    Raises:
      UserError: it is neither, or there is no job array numbered without a gap.
    """
    if match := re.fullmatch(r"(\d+)/(\d+)", text):
        share, count = int(match[1]), int(match[2])
        if share < count:
            return share, count
    if text != "slurm":
        raise UserError(
            f"--shard={text}: must be i/n with i from 0 to n-1, as in 0/4, or slurm"
        )
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


def _config(
    name: str, file: str | None, workdir: Path | None, overrides: Sequence[str]
) -> Config:
    """The configuration of a command, from `--config` or else from the workdir."""
    saved, resolved_path = "", ""
    if file:
        node = _run_config_file(file)
    else:
        if workdir is None:
            raise UserError(f"{name}: --config=FILE.py is missing")
        if not (path := workdir / SAVED).is_file():
            raise UserError(
                f"{name}: --config=FILE.py is missing, and there is no {path}"
            )
        node = config_dict.ConfigDict(dataclasses.asdict(load_config(path))).lock()
        # The workdir may come from somebody else.
        saved, node.bucket = node.bucket, ""
        resolved_path = node.base.path
    _apply(node, overrides)
    config = from_config_dict(node, text=name != "plan")
    if config.base.path != resolved_path:  # a workdir's config is resolved already
        from jaxsim.base import resolved

        config = resolved(config)
    if saved and not config.bucket and name not in _WITHOUT_BUCKET:
        print(
            f"jaxsim: {workdir}/config.json names the bucket {saved}, which is not "
            "used; to use it, give --config=FILE.py or --config.bucket=URL",
            file=sys.stderr,
        )
    return config


def _run_config_file(argument: str) -> config_dict.ConfigDict:
    """Calls `get_config` of the file in FILE.py[:ARG]."""
    file, _, word = argument.partition(":")
    file = os.path.expanduser(file)
    if not Path(file).is_file():
        raise UserError(f"--config={argument}: no such file: {file}")
    if file.endswith(".json"):
        raise UserError(
            f"--config={argument}: not a config in Python. A workdir's config.json is "
            "used without --config; to start another workdir, give the FILE.py"
        )
    path = sys.path[:]
    try:
        # It imports what is beside it, as every script does.
        sys.path.insert(0, str(Path(file).parent.absolute()))
        node = runpy.run_path(file)["get_config"](word or None)
    except JaxsimError:
        raise
    except Exception as error:  # the file is the user's code
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == file]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(
            f"{where}: {type(error).__name__}: {_sentence(error)}"
        ) from error
    finally:
        sys.path[:] = path
    if not isinstance(node, config_dict.ConfigDict):
        raise UserError(
            f"{file}: get_config must return a ConfigDict, "
            f"returns {type(node).__name__}"
        )
    return node.lock()


def _apply(node: config_dict.ConfigDict, overrides: Sequence[str]) -> None:
    """Applies `--config.a.b=value`."""
    for argument in overrides:
        key = argument.split("=")[0].partition(".")[2]
        holder: Any = node
        try:
            parts = config_path.split(key)
        except ValueError as error:
            raise UserError(
                f"--config.{key}: not a key; write a name with special characters as "
                """in '--config.corpus.domains["a-name"].path=...'"""
            ) from error
        if re.search(r"\s", key):  # absl allows no space in the name of a flag
            raise UserError(
                f"--config.{key}: a name with spaces; set it in the config file"
            )
        for part in parts:
            known = holder if isinstance(holder, config_dict.ConfigDict) else {}
            if part not in known:
                raise UserError(f"--config.{key}: unknown key {_unknown(part, known)}")
            holder = holder[part]
    argv = ["jaxsim", *map(_bare_target, overrides)]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", node, flag_values=values, sys_argv=argv
        )
        values(argv)
    except (flags.Error, TypeError, ValueError, KeyError) as error:
        raise UserError(_sentence(error)) from error


def _bare_target(argument: str) -> str:
    """`--config.search.target=NAME` means that domain alone."""
    key, _, name = argument.partition("=")
    if key.lstrip("-") != "config.search.target" or not name or name[0] == "{":
        return argument
    return f"{key}={ {name: 1.0} }"


def _sentence(error: BaseException) -> str:
    """An error's message on one line; without the fields that ConfigDict lists."""
    message: Any = error
    while isinstance(message, BaseException) and message.args:
        message = message.args[0]
    fields = re.compile(r' Other fields present: ".*"(?=\n|\Z)', re.S)
    return " ".join(fields.sub("", str(message)).split())


def _execute(call: Call) -> None:
    home = "doctor" if call.command == "doctor" else "commands"
    function = getattr(importlib.import_module(f"jaxsim.{home}"), call.command)
    given = [call.workdir] if call.config is None else [call.config, call.workdir]
    spec = call.options.get("mixtures")
    if call.command == "score" and spec is None and call.config is not None:
        spec = call.config.score.mixtures
    about = call.command, call.workdir, str(spec or "")
    with commands_for(call.workdir, *call.config_flags), showing_details(call.verbose):
        try:
            with contextlib.redirect_stdout(sys.stderr if call.json else sys.stdout):
                result = function(*given, **call.options)
            from jaxsim import results

            if call.json:
                _print_json(results.document(result, *about))
            else:
                results.show(result, *about)
        except JaxsimError as error:
            error.args = (pasteable(str(error)),)
            raise


def _print_error(command: str, message: str, code: int) -> None:
    why = {"message": message, "exit_code": code}
    _print_json({"format": VERSION, "command": command, "error": why})


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=1, allow_nan=False), flush=True)


def _execute_in_group(call: Call, group: "ProcessGroup") -> None:
    """Runs the command as one process of a group; it ends at once if it fails."""
    from jaxsim import distributed
    from jaxsim.records import from_plain, plain

    # Python handles no signal while `join` waits.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    distributed.join(group)
    interrupt_on_sigterm()

    def execute() -> None:
        # Other processes may see other files than process 0.
        config = distributed.from_lead(plain(call.config))
        _execute(dataclasses.replace(call, config=from_plain(Config, config, "config")))

    try:
        with open(os.devnull, "w") as nowhere:  # process 0 prints for all
            stdout = sys.stdout if distributed.is_lead() else nowhere
            with contextlib.redirect_stdout(stdout):
                code = _guarded(execute, call.command if call.json else "")
    # The others cannot continue without this process: it must not hang.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    if code:
        distributed.leave(code)
