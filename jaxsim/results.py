"""What a command has to say at its end: one screen, or one JSON document."""

from collections.abc import Mapping
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from jaxsim import records
from jaxsim.corpus import Corpus
from jaxsim.corpus.store import CorpusRecord
from jaxsim.corpus.summary import document_rows
from jaxsim.errors import next_command
from jaxsim.log import counted, hidden, is_verbose, say, say_wrapped, show_table
from jaxsim.plan import Plan, show_plan
from jaxsim.pool import Manifest
from jaxsim.report.agreement import trained
from jaxsim.report.data import ReportData
from jaxsim.report.headline import Headline, headline
from jaxsim.report.show import show as show_details
from jaxsim.report.summary import summarize
from jaxsim.report.table import duration, largest, number, short
from jaxsim.report.trust import noise_sentence
from jaxsim.schema import json_schema
from jaxsim.scoring.predicted import Predicted
from jaxsim.scoring.scorer import STANDARD, table_name
from jaxsim.scoring.scores import Scores
from jaxsim.search.result import SearchResult
from jaxsim.validation.measured import TrainedChoice
from jaxsim.validation.validate import Validation

_MOST_ROWS = 14  # of a table on a screen
_FEW = 3  # members
_MOST_TARGETS = 4
_BEST = 5  # mixtures


class ScoredRow(TypedDict):
    """A mixture of a scored table."""

    name: str  # of the mixture
    weights: dict[str, float]  # by member
    scale: float  # of the merged differences; 0 gives the base model
    bits: dict[str, dict[str, float | None]]  # bits per byte by predictor and target


class Scored(TypedDict):
    """The best mixtures of a scored table by the merge, and the standard ones."""

    table: str  # its name
    file: str  # that has all rows
    mixtures: int  # how many rows that are
    predicted: bool  # in closed form; the rows are merges in either case
    split: Literal["dev"]  # of the evaluation text
    windows: int  # evaluation windows, of the domain that has most
    targets: list[str]  # domains and means over domains; the first one ranks
    rows: list[ScoredRow]  # the best ones, then the standard ones
    notes: list[str]  # what an override admitted


class Error(TypedDict):
    """Why a command ended."""

    message: str
    exit_code: int


# What `result` is in the document of a command.
KINDS: Mapping[str, Any] = {
    "prepare": CorpusRecord | None,  # None for a share, and for a dry run
    "base": Manifest,
    "train": dict[str, Manifest],
    "score": Scored,
    "validate": Validation | TrainedChoice,
    "search": SearchResult,
    "report": str,
    "export": str,
    "verify": list[str],
    "run": Headline,
    "plan": Plan,
    "doctor": dict[str, str],
}
WITH_HEADLINE = ("validate", "search", "report")


def document(
    result: Any, command: str, workdir: Path | None, spec: str = ""
) -> dict[str, Any]:
    """The result of a command as plain data; `spec` is the table of `score`."""
    if isinstance(result, Corpus):
        result = result.record
    elif isinstance(result, Scores | Predicted):
        assert workdir is not None
        result = _scored(result, workdir, spec)
    elif isinstance(result, Path):
        result = str(result)
    found = {"format": records.VERSION, "command": command}
    if command in WITH_HEADLINE and workdir is not None:
        found["headline"] = headline(ReportData(workdir), workdir)
    return dict(records.plain(found | {"result": result}))


def show(result: Any, command: str, workdir: Path | None, spec: str = "") -> None:
    """Prints one screen: what the command found, how sure that is, what to do next."""
    if result is None:  # what it did was said
        return
    if command == "plan":
        show_plan(result)
    elif command == "doctor":
        for name, value in result.items():
            say(f"{name:20} {value}")
    elif workdir is not None:
        _show(result, command, workdir, spec)


def _show(result: Any, command: str, workdir: Path, spec: str) -> None:
    match command:
        case "prepare":
            _show_corpus(result)
            _say_next("Train the base model, the members, and all that follows", "run")
        case "base":
            say_wrapped(f"base model: {_trained(result)}, in {workdir / 'base'}")
            _say_next("Train the members", "train")
        case "train":
            seconds = duration(sum(member.wall_seconds for member in result.values()))
            say(f"train: {counted(len(result), 'member')} in {workdir / 'pool'}")
            for name, member in list(result.items())[:_FEW]:
                say_wrapped(f"  {name}: {_trained(member)}")
            if len(result) > _FEW:
                say(f"  ... {seconds} in all")
            _say_next("Score mixtures of them", "score")
        case "score":
            scored = _scored(result, workdir, spec)
            _show_scores(scored)
            is_searched = spec and not scored["predicted"]
            flags = (f"--config.score.mixtures={spec}",) if is_searched else ()
            _say_next("Search for the best mixture", "search", *flags)
        case "validate" if isinstance(result, Validation):
            _show_validation(result, workdir)
        case "validate":
            _show_chosen(result, workdir)
        case "report":
            _say_answer(ReportData(workdir), workdir)
            say(f"Report: {result}")
        case "export":
            files = [result] if result.is_file() else list(result.iterdir())
            size = sum(path.stat().st_size for path in files)
            say(f"export: {counted(len(files), 'file')}, {size:,} bytes, in {result}")
        case "verify":
            say(f"verify: {counted(len(result), 'entry', 'entries')} intact")
        case _:
            _show_headline(headline(ReportData(workdir), workdir))
            if command == "run":
                say(f"Report: {workdir / 'report' / 'index.html'}")


def _say_next(why: str, command: str, *flags: str) -> None:
    """What to do next, and the command on a line of its own."""
    say(f"Next: {why}")
    say(f"  {next_command(command, *flags)}")


def _say_answer(data: ReportData, workdir: Path) -> Headline:
    """Prints the answer of a workdir, and how far it can be trusted."""
    answer = headline(data, workdir)
    say_wrapped(f"Answer: {answer.answer}")
    say_wrapped(f"Verdict: {answer.trust}")
    return answer


def _show_headline(answer: Headline) -> None:
    """Prints all of a headline."""
    *lines, last = answer.lines()
    for line in lines:
        say_wrapped(line)
    say(last)  # a command stays on one line


def _show_corpus(corpus: Corpus) -> None:
    columns, rows, _ = document_rows(corpus)
    shown = rows[: None if is_verbose() else _MOST_ROWS]
    used = [i for i in range(len(columns)) if {row[i] for row in shown} - {"-", ""}]
    show_table(
        "documents",
        [columns[i] for i in used],
        [[short(row[0], 30), *(row[i] for i in used[1:])] for row in shown],
        note=hidden(len(rows), _MOST_ROWS),
        always=True,
    )
    tokens = corpus.budget_tokens
    say_wrapped(
        f"prepare: {counted(len(corpus.units), 'member')} to train, on {tokens:,} "
        f"tokens each; {counted(len(corpus.domains), 'domain')} to score; vocabulary "
        f"of {corpus.tokenizer.vocab_size:,}"
    )


def _trained(manifest: Manifest) -> str:
    if manifest.source is not None:
        return f"imported from {manifest.source.path}"
    loss = "" if manifest.final_loss is None else f", loss {manifest.final_loss:.3f}"
    return f"{counted(manifest.steps, 'step')}, {manifest.tokens:,} tokens{loss}"


def _show_scores(scored: Scored) -> None:
    rows, targets = scored["rows"], scored["targets"][:_MOST_TARGETS]
    how = " in closed form" * scored["predicted"]
    say(f"score: {scored['mixtures']:,} mixtures{how} in {scored['file']}")
    if not rows:  # what is not known of any domain was said
        return
    show_table(
        f"bits per byte of merges on dev text, at most {scored['windows']} windows a "
        f"domain: the best of {scored['mixtures']:,} on {targets[0]}{how}",
        ["mixture", "weights", *targets],
        [
            [
                short(row["name"], 30),
                largest(row["weights"]),
                *(number(row["bits"]["merge"][on], 4) for on in targets),
            ]
            for row in rows
        ],
        left=2,
        always=True,
    )


def _show_validation(validation: Validation, workdir: Path) -> None:
    data = ReportData(workdir)
    kind = "your runs" if validation.given else "runs on held-out mixtures"
    say_wrapped(
        f"validate: predictions compared with {len(validation.reference_runs)} {kind}. "
        f"Noise: {noise_sentence(validation)}"
    )
    say_wrapped(f"Verdict: {headline(data, workdir).trust}")
    _say_next("Search with what was learned", "search")


def _show_chosen(chosen: TrainedChoice, workdir: Path) -> None:
    data = ReportData(workdir)
    table = trained(chosen, data.found)
    ordered = sorted(range(len(table.rows)), key=lambda i: table.rows[i]["trained"])
    shown = ordered[: None if is_verbose() else _BEST]
    show_details(table.take(shown), always=True)
    if text := hidden(len(ordered), _BEST):
        say(text)
    answer = _say_answer(data, workdir)
    if answer.command:
        say(f"Next: {answer.why}")
        say(f"  {answer.command}")


def _scored(scores: Scores | Predicted, workdir: Path, spec: str) -> Scored:
    """The best rows and the standard ones, as the screen and the document have them."""
    table = scores.best if isinstance(scores, Predicted) else scores
    name = table_name(spec) if spec else STANDARD
    found = Scored(
        table=name,
        file=str(workdir / "scores" / f"{name}.parquet"),
        mixtures=scores.count if isinstance(scores, Predicted) else len(scores.table),
        predicted=isinstance(scores, Predicted),
        split="dev",
        windows=0,
        targets=[],
        rows=[],
        notes=[],
    )
    if table is None:
        return found
    standard = table.table.standard_merges()
    best = summarize(table, "dev", _BEST + len(standard))
    rows = [
        ScoredRow(
            name=table.table.names[m],
            weights=table.table.parts(m),
            scale=float(table.table.scale_M[m]),
            bits={
                p: dict(zip(best.targets, row_MG[i].tolist(), strict=True))
                for p, row_MG in best.bits.items()
            },
        )
        for i, m in enumerate(best.rows.tolist())
    ]
    return found | {
        "windows": best.windows, "targets": list(best.targets), "rows": rows,
        "notes": list(table.notes),
    }  # fmt: skip


def schema(command: str) -> dict[str, Any]:
    """The JSON Schema of what `jaxsim COMMAND --json` prints."""
    about: list[tuple[str, Any]] = [("format", int), ("command", Literal[command])]
    shown = [("headline", Headline)] if command in WITH_HEADLINE else []
    done = make_dataclass("Done", [*about, *shown, ("result", KINDS[command])])
    ended = make_dataclass("Ended", [*about, ("error", Error)])
    done.__doc__, ended.__doc__ = "The result of a command.", "Why a command ended."
    return json_schema(done | ended)
