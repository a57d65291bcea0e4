"""The command line: parses, then calls one function of `jaxsim.commands`.

Kept free of anything else, so that the rest can be imported in a test or a
notebook. Every mistake of the user ends in one sentence and exit code 2.
"""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import config_path

from jaxsim import __version__
from jaxsim.config import Config, from_config_dict, load_config
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.interrupt import interrupt_on_sigterm
from jaxsim.memory import keep_freed_memory
from jaxsim.shard import parse_shard

if TYPE_CHECKING:
    from jaxsim.distributed import Group


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of one command; without `parse` it is a switch."""

    example: str
    help: str
    parse: Callable[[str], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    help: str
    flags: Mapping[str, Flag] = dataclasses.field(default_factory=dict)
    config: str = "needed"  # or 'saved' (WORKDIR's own will do) or 'none'
    workdir: bool = True  # is it needed?
    text: bool = True  # must the config say where its text is?


@dataclasses.dataclass(frozen=True)
class Call:
    """A command line that was understood."""

    command: str
    config: Config | None
    workdir: Path | None
    options: dict[str, Any]
    group: "Group | None" = None  # of processes that run it together


def _shard(text: str) -> tuple[int, int]:
    return parse_shard(text, os.environ)


def _worth(text: str) -> float:
    number = text.removesuffix("%")
    try:
        worth = float(number)
    except ValueError:
        worth = -1.0
    if number != text:
        worth /= 100
    if not 0 <= worth < 1:
        raise UserError(
            f"--worth={text}: must be a share of the loss, as in 0.2%"
        )
    return worth


def _truths(text: str) -> tuple[Path, Path]:
    names = text.split(",")
    if len(names) != 2 or not all(names):
        raise UserError(
            f"--truths={text}: must be two files, RATIOS.csv,METRICS.csv"
        )
    for name in names:
        if not Path(name).is_file():
            raise UserError(f"--truths={text}: no such file: {name}")
    return Path(names[0]), Path(names[1])


def _members(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UserError(f"--members={text}: must be a number, as in 32")
    return int(text)


def _utilization(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(
            f"--utilization={text}: must be a share of the peak rate, as in 0.4"
        )
    return share


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise UserError(f"no such file: {text}")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise UserError(
            f"--processes, --process: {text!r} must be a whole number, from 0"
        )
    return int(text)


_PROCESSES = {
    "distributed": Flag(
        "--distributed=auto", "one of many processes that jax detects", str
    ),
    "coordinator": Flag(
        "--coordinator=HOST:PORT", "of the processes, all on one program", str
    ),
    "processes": Flag("--processes=N", "how many there are", _count),
    "process": Flag("--process=I", "which one this is, from 0", _count),
}
_OVERRIDE = {
    "override": Flag(
        "--override",
        "admit damaged or mismatched members, mark every result",
    )
}
COMMANDS: Mapping[str, Command] = {
    "prepare": Command(
        "documents to rows of tokens",
        {"refreeze": Flag("--refreeze", "start a new pool")},
    ),
    "seed": Command("train the seed", _PROCESSES),
    "train": Command(
        "train every member that the pool lacks",
        {
            "shard": Flag(
                "--shard=i/n",
                "only share i of n, from 0; slurm: as its job array says",
                _shard,
            ),
            **_PROCESSES,
        },
    ),
    "score": Command(
        "score a table of mixtures by merging",
        {
            "mixtures": Flag(
                "--mixtures=subsets:1-3", "or dirichlet:1000 or FILE.csv", str
            ),
            **_OVERRIDE,
        },
        config="saved",
    ),
    "validate": Command(
        "train truths, report agreement, calibrate",
        {
            "truths": Flag(
                "--truths=RATIOS.csv,METRICS.csv", "your own", _truths
            ),
            "ratios": Flag(
                "--ratios=FILE.csv",
                "train these ratios, as search/best.csv, and compare",
                _file,
            ),
            **_OVERRIDE,
        },
        config="saved",
    ),
    "search": Command(
        "propose mixtures for an objective",
        {
            "worth": Flag(
                "--worth=0.2%", "smallest difference that matters", _worth
            ),
            **_OVERRIDE,
        },
        config="saved",
    ),
    "report": Command("write the report from what is on disk", config="saved"),
    "verify": Command("re-hash the pool, say what is wrong", config="none"),
    "run": Command(
        "all of the above that the config asks for; repeat it to continue",
        _OVERRIDE,
    ),
    "plan": Command(
        "compile for hardware you may not have; say what fits, what it costs",
        {
            "topology": Flag(
                "--topology=v5e:16x16",
                "of TPUs; without it the devices that are there",
                str,
            ),
            "members": Flag(
                "--members=32", "of the pool, if no text is prepared", _members
            ),
            "utilization": Flag(
                "--utilization=0.4", "share of the peak rate", _utilization
            ),
        },
        config="saved",
        workdir=False,
        text=False,
    ),
    "doctor": Command(
        "devices, versions, memory, disk: what a bug report needs",
        config="none",
        workdir=False,
    ),
}
_FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_USAGE = (
    "jaxsim COMMAND --config=FILE.py[:ARG] --workdir=DIR "
    "[--config.a.b=value ...]"
)


def entry() -> int:
    """The console script."""
    code = main(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has ended
    return code


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    return _guarded(lambda: _main(argv))


def _main(argv: Sequence[str]) -> None:
    if (text := _answer(argv)) is not None:
        print(text)
        return
    call = parse(argv)
    interrupt_on_sigterm()
    absl_logging.set_verbosity(absl_logging.WARNING)
    keep_freed_memory()
    _use_compilation_cache()
    if call.group is None:
        _execute(call)
    else:
        _execute_in_group(call, call.group)


def _guarded(action: Callable[[], None]) -> int:
    """The exit code of what was done; says what went wrong."""
    try:
        action()
    except JaxsimError as error:
        print(f"jaxsim: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in _FULL_OR_CLOSED:
            raise
        print(
            f"jaxsim: {error.filename or 'a file'}: {error.strerror}; mend "
            "that and repeat the same command, what is done is kept",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:  # Ctrl-C, or SIGTERM outside of training
        print(
            "jaxsim: interrupted; repeat the same command to continue",
            file=sys.stderr,
        )
        return Preempted.exit_code
    return 0


def parse(argv: Sequence[str]) -> Call:
    """Turns arguments into a call.

    Raises:
      UserError: anything the user has to change, named.
    """
    name, *arguments = argv
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; one of {_names(COMMANDS)}")
    command = COMMANDS[name]
    values, overrides = _parse_flags(name, arguments)
    if command.workdir and not values.workdir:
        raise UserError(f"{name}: --workdir=DIR is missing")
    workdir = Path(values.workdir) if values.workdir else None
    if workdir and (found := re.search(r"[*?\[\]]", str(workdir.absolute()))):
        raise UserError(
            f"--workdir={workdir}: {found[0]!r} in the path of a workdir; "
            "Orbax takes it for a pattern. Use another folder"
        )
    config = None
    if command.config != "none":
        node = _load_node(name, values.config, workdir)
        saved = ""
        if not values.config:  # whose workdir it was, nobody knows
            saved, node.bucket = node.bucket, ""
        _apply(node, overrides)
        config = from_config_dict(node, text=command.text)
        if saved and not config.bucket and name in ("score", "validate"):
            print(
                f"jaxsim: {workdir}/config.json names the bucket {saved}, "
                "which is left alone; --config=FILE.py or --config.bucket=URL "
                "would use it",
                file=sys.stderr,
            )
    elif overrides:
        raise UserError(f"{name}: takes no config, but {overrides[0]} is given")
    options = {}
    for option, flag in command.flags.items():
        value = values[option].value
        if flag.parse is not None and value is not None:
            value = flag.parse(value)
        options[option] = value
    group = None
    if command.flags.keys() >= _PROCESSES.keys():
        from jaxsim.distributed import group_of

        group = group_of(**{name: options.pop(name) for name in _PROCESSES})
        if group is not None and config is not None and config.bucket:
            raise UserError(
                f"config.bucket={config.bucket!r}: the processes of one run "
                "meet in one workdir, on a file system that all of them see; "
                "leave the bucket out"
            )
    return Call(name, config, workdir, options, group)


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


def _execute_in_group(call: Call, group: "Group") -> None:
    """One of many processes; if it fails it ends at once, with its code."""
    from jaxsim import distributed

    # Nothing is begun, and nothing of Python is heard while it waits.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    distributed.join(group)
    interrupt_on_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            if not distributed.is_lead():  # process 0 says it all
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            code = _guarded(lambda: _execute(_as_process_0(call)))
    # Where this process cannot go on, nobody can: it must not linger.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    if code:
        distributed.leave(code)


def _as_process_0(call: Call) -> Call:
    """With its configuration: another process may see another file."""
    from jaxsim.distributed import from_lead

    assert call.config is not None  # both commands need one
    data = from_lead(dataclasses.asdict(call.config))
    config = from_config_dict(config_dict.ConfigDict(data))
    return dataclasses.replace(call, config=config)


def _answer(argv: Sequence[str]) -> str | None:
    """What is asked about jaxsim itself, if anything."""
    if not argv or argv[0] in ("--help", "-h"):
        width = max(map(len, COMMANDS))
        lines = [f"  {k:{width}}  {c.help}" for k, c in COMMANDS.items()]
        return "\n".join(
            [f"usage: {_USAGE}", "", *lines, "", "jaxsim COMMAND --help: flags"]
        )
    if argv[0] == "--version":
        return f"jaxsim {__version__}"
    if argv[0] in COMMANDS and {"--help", "-h"} & set(argv):
        return _command_help(argv[0])
    return None


def _command_help(name: str) -> str:
    command = COMMANDS[name]
    workdir = "where all results are kept"
    if not command.workdir:
        workdir += "; optional"
    rows = [("--workdir=DIR", workdir)]
    if command.config != "none":
        source = "an ml_collections file"
        if command.config == "saved":
            source += "; without it WORKDIR/config.json"
        rows = [
            ("--config=FILE.py[:ARG]", source),
            *rows,
            ("--config.a.b=value", "changes one key, any number of times"),
        ]
    rows += [(flag.example, flag.help) for flag in command.flags.values()]
    width = max(len(left) for left, _ in rows)
    return "\n".join(
        [f"jaxsim {name}: {command.help}", ""]
        + [f"  {left:{width}}  {right}" for left, right in rows]
    )


def _parse_flags(
    name: str, arguments: Sequence[str]
) -> tuple[flags.FlagValues, list[str]]:
    """The command's flags, and the `--config.a.b=value` that are left."""
    command = COMMANDS[name]
    values = flags.FlagValues()
    for string in ("config", "workdir"):
        flags.DEFINE_string(string, None, "", flag_values=values)
    for option, flag in command.flags.items():
        if flag.parse is None:
            flags.DEFINE_bool(option, False, flag.help, flag_values=values)
        else:
            flags.DEFINE_string(option, None, flag.help, flag_values=values)
    for argument in arguments:
        if not argument.startswith("-"):
            raise UserError(
                f"{name}: unexpected argument {argument!r}; "
                "flags are written --name=value"
            )
    try:
        rest = values(["jaxsim", *arguments], known_only=True)[1:]
    except flags.Error as error:
        raise UserError(f"{name}: {error}") from error
    for argument in rest:
        if not re.match(r"--?(no)?config\.", argument):
            raise UserError(
                f"{name}: unknown flag {argument.split('=')[0]}; known here: "
                f"{_names(['--' + n for n in values])}"
            )
    return values, rest


def _load_node(
    name: str, argument: str | None, workdir: Path | None
) -> config_dict.ConfigDict:
    """The configuration before overrides: from `--config` or the workdir."""
    if argument:
        return _run_config_file(argument)
    if COMMANDS[name].config == "needed" or workdir is None:
        raise UserError(f"{name}: --config=FILE.py is missing")
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"{name}: --config=FILE.py is missing, and there is no {path}"
        )
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
    """Sets what `--config.a.b=value` asks for."""
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
            f"--config.{key}: no key; a name with signs in it is written "
            """'--config.corpus.domains["a-name"].path=...'"""
        ) from error
    if re.search(r"\s", key):  # absl allows none in the name of a flag
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
                f"known there: {_names(holder) or 'none'}"
            )
        holder = holder[part]


def _sentence(error: BaseException) -> str:
    """The message on one line; ConfigDict wraps it and lists all fields."""
    message: Any = error
    while isinstance(message, BaseException) and message.args:
        message = message.args[0]
    fields = re.compile(r' Other fields present: ".*"(?=\n|\Z)', re.S)
    return " ".join(fields.sub("", str(message)).split())


def _names(names: Any) -> str:
    return ", ".join(names)


def _use_compilation_cache() -> None:
    """Keeps compiled programs per user and kind of machine.

    Whoever can write there can run code in this process, so it is never in a
    workdir, which may be shared. A program for another CPU may crash.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"]:
        return  # set by the user, through JAX
    folder = Path("~/.cache/jaxsim") / _machine()
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        writable = False
    if writable:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    else:
        print(
            f"jaxsim: warning: cannot write {folder}; programs are compiled "
            "anew each time",
            file=sys.stderr,
        )


def _machine() -> str:
    """Names the kind of machine: its architecture and CPU features."""
    features = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        match = re.search(
            r"^(flags|Features)\s*:.*$", cpuinfo.read_text(), re.M
        )
        features = match[0] if match else features
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    return f"{platform.system()}-{platform.machine()}-{digest}".lower()
