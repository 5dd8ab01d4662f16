"""program.md reads into a Program, or is refused with one ProgramError that says where and what was expected."""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch_ray import program
from autoresearch_ray.errors import ProgramError
from autoresearch_ray.model import Direction, Member, Metric, Options, Parse, ParseKind, Price, Program, Scope
from autoresearch_ray.program import parse, read
from autoresearch_ray.sections import visible

PROSE = Path(__file__).parent / "programs" / "prose"
TOML = (PROSE / "autoresearch.toml").read_text()

TEMPLATE = """\
# Autoresearch: <Project Name>
## Scope
- Files you CAN modify: <list>
- Files you CANNOT modify: <list>
- You CANNOT install new dependencies
## Eval
Command: `<command that outputs the metric>`
Metric: `<name>` (lower is better | higher is better)
Time budget: <N> minutes per experiment
Parse: `grep "^<metric>:" run.log` or similar
## Strategy
<What to try. Research directions. Constraints. Philosophy.>
## Notes
<Anything else the agent should know>
"""

ML_TRAINING = """\
ML Training (Karpathy's original)
## Scope
- CAN modify: train.py
- CANNOT modify: prepare.py, pyproject.toml
## Eval
Command: `uv run train.py`
Metric: val_bpb (lower is better)
Time budget: 5 minutes
Parse: `grep "^val_bpb:" run.log`
"""

API_LATENCY = """\
API Latency
## Scope
- CAN modify: src/handlers/, src/db/queries/
## Eval
Command: `cargo build --release && wrk -t4 -c100 -d30s http://localhost:8080/api/search`
Metric: Req/Sec (higher is better)
Time budget: 2 minutes
Parse: `grep "Req/Sec" run.log | awk '{print $2}'`
"""

PROMPT_OPTIMIZATION = """\
Prompt Optimization
## Scope
- CAN modify: prompts/system.txt
## Eval
Command: `python eval_prompt.py --dataset eval_set.jsonl`
Metric: accuracy (higher is better)
Time budget: 3 minutes
Parse: `grep "^accuracy:" run.log`
"""

BUNDLE_SIZE = """\
Bundle Size
## Scope
- CAN modify: src/, package.json (deps only)
## Eval
Command: `npm run build && du -sb dist/ | cut -f1`
Metric: bytes (lower is better)
Time budget: 1 minute
Parse: the entire stdout is the number
"""

LIGHTHOUSE = """\
Lighthouse
## Scope
- CAN modify: src/components/, src/styles/
## Eval
Command: `npm run build && npx lighthouse http://localhost:3000 --output=json \
--chrome-flags="--headless" | jq '.categories.performance.score'`
Metric: performance score (higher is better)
Time budget: 2 minutes
Parse: the entire stdout is the number
"""

FULL = """\
---
tag: nov20
agent: claude               # agents/claude.py, or my_pkg.my_mod:MyAgent
workers: auto               # one per GPU slot of the cluster
gpus_per_worker: 1
lanes: auto
policy: {every: 4}
stop: {hours: 8, experiments: 800, cost_usd: 50}
---
# Autoresearch: nanochat
## Scope
- Files you CAN modify: train.py
- Files you CANNOT modify: prepare.py, pyproject.toml
- You CANNOT install new dependencies
## Eval
Command: `uv run train.py`
Metric: `val_bpb` (lower is better)
Time budget: 5 minutes per experiment
Parse: `grep "^val_bpb:" run.log`
Setup: `uv sync`            (once per node)
Guard: `uv run pytest -q`   (only when better)
## Strategy
Try the optimizer first.

### Then
The schedule.
## Notes
The noise is 0.001.
"""

SEVERAL = (
    ML_TRAINING
    + """\
Rule: weighted (all of them)
Also:
- `latency_ms` (lower is better), at most 10 % worse, weight 0.3
- memory_gb, at most 70 GB
- accuracy ↑ at least 0.8
Holdout:
```
python ~/secret/score.py .
```
"""
)

EXAMPLES = [ML_TRAINING, API_LATENCY, PROMPT_OPTIMIZATION, BUNDLE_SIZE, LIGHTHOUSE, FULL, SEVERAL]


def with_eval(*lines: str, drop: str = "Parse") -> str:
    """The ML example, its lines that begin with `drop` left out, with `lines` at the end of its Eval."""
    kept = [each for each in ML_TRAINING.splitlines() if not each.startswith(drop)]
    return "\n".join([*kept, *lines, ""])


def with_scope(*lines: str) -> Scope:
    return parse("\n".join(["# x", "## Scope", *lines, ML_TRAINING[ML_TRAINING.index("## Eval") :]])).scope


def refused(text: str, **where: str) -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        parse(text, **where)
    assert type(caught.value) is ProgramError
    assert caught.value.file
    assert caught.value.line >= 1
    assert caught.value.hint
    return caught.value


# --- The examples of the field, as they stand ------------------------------------------------------------------------


def test_ml_training_reads() -> None:
    got = parse(ML_TRAINING)
    assert got.title == "ML Training (Karpathy's original)"
    assert got.scope == Scope(("train.py",), ("prepare.py", "pyproject.toml"))
    assert got.eval.command == "uv run train.py"
    assert got.eval.metric == Metric("val_bpb", Direction.LOWER)
    assert (got.eval.budget_seconds, got.eval.kill_after_seconds) == (300, 600)
    assert got.eval.parse == Parse(ParseKind.COMMAND, 'grep "^val_bpb:" run.log')
    assert (got.eval.setup, got.eval.guard) == (None, None)
    assert got.options == Options()


def test_api_latency_reads() -> None:
    got = parse(API_LATENCY)
    assert got.scope.can == ("src/handlers/", "src/db/queries/")
    assert got.eval.command == "cargo build --release && wrk -t4 -c100 -d30s http://localhost:8080/api/search"
    assert got.eval.metric == Metric("Req/Sec", Direction.HIGHER)
    assert got.eval.budget_seconds == 120
    assert got.eval.parse == Parse(ParseKind.COMMAND, """grep "Req/Sec" run.log | awk '{print $2}'""")


def test_prompt_optimization_reads() -> None:
    got = parse(PROMPT_OPTIMIZATION)
    assert got.scope.can == ("prompts/system.txt",)
    assert got.eval.metric == Metric("accuracy", Direction.HIGHER)
    assert got.eval.budget_seconds == 180


def test_bundle_size_reads_its_remark_as_a_rule() -> None:
    got = parse(BUNDLE_SIZE)
    assert got.scope == Scope(("src/", "package.json"), (), ("package.json: deps only",))
    assert got.eval.command == "npm run build && du -sb dist/ | cut -f1"
    assert got.eval.parse == Parse(ParseKind.STDOUT)
    assert got.eval.budget_seconds == 60


def test_lighthouse_reads() -> None:
    got = parse(LIGHTHOUSE)
    assert got.eval.metric == Metric("performance score", Direction.HIGHER)
    assert got.eval.command.endswith("""--chrome-flags="--headless" | jq '.categories.performance.score'""")


def test_the_full_format_reads() -> None:
    got = parse(FULL)
    assert got.title == "nanochat"
    assert got.scope == Scope(("train.py",), ("prepare.py", "pyproject.toml"), ("You CANNOT install new dependencies",))
    assert (got.eval.setup, got.eval.guard) == ("uv sync", "uv run pytest -q")
    assert got.strategy == "Try the optimizer first.\n\n### Then\nThe schedule."
    assert got.notes == "The noise is 0.001."
    assert got.options == Options(tag="nov20", every=4, hours=8.0, experiments=800, cost_usd=50.0)
    assert got.text == FULL.split("---\n", 2)[2]


def test_the_template_reads_once_it_is_filled_in_and_not_before() -> None:
    assert refused(TEMPLATE).line == 3
    filled = (
        TEMPLATE.replace("<list>", "a.py", 1).replace("<list>", "b.py").replace("<Project Name>", "Parser")
        .replace("<command that outputs the metric>", "make bench").replace("<name>", "ms").replace("<N>", "2")
    )  # fmt: skip
    assert refused(filled).line == 8  # both directions
    filled = filled.replace(" | higher is better", "")
    assert refused(filled).line == 10  # <metric>
    got = parse(filled.replace("<metric>", "ms"))
    assert got.title == "Parser"
    assert got.eval.parse == Parse(ParseKind.COMMAND, 'grep "^ms:" run.log')


def test_prose_with_a_toml_reads() -> None:
    got = read(PROSE)
    assert got.title == "Autoresearch"
    assert got.text == (PROSE / "program.md").read_text()
    assert got.scope == Scope(("program.py",))
    assert got.eval.command == "vpp/bin/python bench.py"
    assert got.eval.metric == Metric("generations_per_s", Direction.HIGHER)
    assert (got.eval.budget_seconds, got.eval.kill_after_seconds) == (180, 360)


@pytest.mark.parametrize(
    ("log", "value"),
    [
        ("total_walltime: 180\ngenerations_per_s: 5.56\ndepth: 8\n", "5.56"),
        ("generations_per_s: 5\ngenerations_per_s = 1e-3\n", "1e-3"),
        ("compiling 3 files\n-0.25\n", "-0.25"),
        ("generations_per_s: nan\n", "nan"),
    ],
)
def test_the_metric_of_a_toml_is_found_alone_on_a_line_or_by_name(log: str, value: str) -> None:
    pattern = read(PROSE).eval.parse
    assert pattern.kind is ParseKind.REGEX
    assert re.findall(pattern.text, log)[-1] == value


# --- Files -----------------------------------------------------------------------------------------------------------


def test_a_folder_and_its_program_read_the_same_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "program.md").write_text(FULL)
    assert read(tmp_path) == read(tmp_path / "program.md") == parse(FULL)
    assert [each.name for each in tmp_path.iterdir()] == ["program.md"]
    assert (tmp_path / "program.md").read_text() == FULL


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "program.md").write_bytes(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())
    assert read(tmp_path) == parse(FULL)
    toml = "\ufeff" + TOML.replace("\n", "\r\n")
    assert parse("# x", toml=toml) == parse("# x", toml=TOML)


@pytest.mark.parametrize("missing", ["nowhere.md", ".", "nul\0byte"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ProgramError) as caught:
        read(tmp_path / missing)
    assert str(tmp_path) in caught.value.file
    assert "folder" in caught.value.hint


def test_a_file_that_is_not_utf8_is_refused_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "program.md").write_bytes(b"# x\n\n\xff\n")
    with pytest.raises(ProgramError, match="UTF-8") as caught:
        read(tmp_path)
    assert caught.value.line == 3


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text("x\n" * (1 << 19) + "x")])
def test_a_pipe_is_not_waited_for_and_a_heap_of_data_is_not_parsed(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    """A driver that goes on reads the page again when it changes, whatever stands there then."""
    make(tmp_path / "program.md")
    with pytest.raises(ProgramError, match=r"cannot be read: (?:not a regular file|larger than 1024 KiB)"):
        read(tmp_path / "program.md")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program.md").write_text(FULL)
    (tmp_path / "program.md").chmod(0)
    with pytest.raises(ProgramError, match="Permission denied"):
        read(tmp_path)


# --- Where the evaluation stands -------------------------------------------------------------------------------------


def test_an_evaluation_in_both_files_is_refused_with_both_lines() -> None:
    error = refused(ML_TRAINING, toml=TOML, file="some/program.md")
    assert "line 5 of some/program.md" in error.message
    assert "line 2 of some/autoresearch.toml" in error.message


def test_an_evaluation_in_neither_file_is_refused() -> None:
    assert refused("---\n---").line == 1
    assert "autoresearch.toml" in refused("# Make it fast\nPlease.").message
    assert "eval_command is missing" in refused("# Make it fast", toml='target_file = "a.py"').message


def test_a_toml_that_sets_no_evaluation_is_somebody_elses() -> None:
    assert parse(ML_TRAINING, toml="[llm]\nprovider = 'x'\n") == parse(ML_TRAINING)


def test_prose_under_an_evaluation_heading_leaves_it_to_the_toml() -> None:
    assert parse("# x\n## Evaluation\nWe measure speed.\n", toml=TOML).eval.command == "vpp/bin/python bench.py"


def test_a_scope_beside_a_toml_adds_to_it_but_must_not_contradict_it() -> None:
    got = parse("# x\n## Scope\n- CANNOT modify: bench.py\n- Be bold\n", toml=TOML)
    assert got.scope == Scope(("program.py",), ("bench.py",), ("Be bold",))
    error = refused("# x\n## Scope\n- CAN modify: other.py\n", toml=TOML)
    assert "line 2 of program.md" in error.message
    assert "line 1 of autoresearch.toml" in error.message


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"3m"', '"300"', 5),
        ('"3m"', "300", 5),
        ('"higher"', '"better"', 4),
        ('"program.py" ', '"../program.py" ', 1),
        ('"vpp/bin/python bench.py"', '""', 2),
        ('"higher"', '"higher', 4),
    ],
)
def test_a_bad_toml_is_refused_at_its_line(old: str, new: str, line: int) -> None:
    assert old in TOML
    error = refused("# x", toml=TOML.replace(old, new))
    assert (error.file, error.line) == ("autoresearch.toml", line)


# --- Scope -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bullet", ["- ", "* ", "+ ", "1. ", "2) ", ""])
@pytest.mark.parametrize(
    ("can", "cannot"),
    [
        ("Files you CAN modify:", "Files you CANNOT modify:"),
        ("CAN modify:", "CANNOT modify:"),
        ("You can modify", "You cannot modify"),
        ("**Files you can edit:**", "**Files you can't edit:**"),
        ("**You CAN modify**:", "**Do not modify**:"),
        ("Files the agent may change:", "Files that must not be changed:"),
    ],
)
def test_scope_lists_read_in_every_usual_form(bullet: str, can: str, cannot: str) -> None:
    got = with_scope(f"{bullet}{can} train.py, `src/a b.py`", f"{bullet}{cannot} prepare.py and ./tests/")
    assert got == Scope(("train.py", "src/a b.py"), ("prepare.py", "tests/"))


@pytest.mark.parametrize(
    "lines",
    [
        ["Files you CAN modify:", "- a.py", "- `b.py`", "", "Files you CANNOT modify:", "", "- c.py"],
        ["- Files you CAN modify:", "  - a.py", "  - `b.py`", "- Files you CANNOT modify:", "  * c.py"],
        ["- CAN modify: a.py,", "  b.py", "- CANNOT modify: c.py"],
        ["### Files", "- CAN modify: a.py; b.py.", "- CANNOT modify: c.py", "<!-- - CAN modify: d.py -->"],
    ],
)
def test_scope_lists_may_run_over_several_lines(lines: list[str]) -> None:
    assert with_scope(*lines) == Scope(("a.py", "b.py"), ("c.py",))


@pytest.mark.parametrize(
    "item", ["a.py (lr only)", "`a.py` — lr only", "a.py - lr only", "a.py: lr only", "`a.py`. lr only"]
)
def test_a_remark_beside_a_path_is_a_rule(item: str) -> None:
    assert with_scope(f"- CAN modify: {item}") == Scope(("a.py",), (), ("a.py: lr only",))
    assert with_scope("- CAN modify:", f"  - {item}") == Scope(("a.py",), (), ("a.py: lr only",))


@pytest.mark.parametrize(
    "sentence",
    [
        "You CANNOT install new dependencies",
        "You can't change the tokenizer, ever",
        "You CANNOT modify the interface of server.py",
        "Do not touch tests",
        "Files you CANNOT modify: everything else",
        "You may use 2 GPUs",
        "Keep it simple: less code is better.",
    ],
)
def test_a_sentence_is_a_rule(sentence: str) -> None:
    assert with_scope("- CAN modify: a.py", f"- {sentence}") == Scope(("a.py",), (), (sentence,))


def test_nothing_is_an_empty_list_and_a_dot_is_the_whole_folder() -> None:
    assert with_scope("- CAN modify: .", "- CANNOT modify: none") == Scope((".",))


@pytest.mark.parametrize(
    "lines",
    [
        [""],
        ["- CANNOT modify: b.py"],
        ["- CAN modify:"],
        ["- CAN modify: /etc/passwd"],
        ["- CAN modify: ~/a.py"],
        ["- CAN modify: C:\\a.py"],
        ["- CAN modify: ../a.py"],
        ["- CAN modify: src/../../a.py"],
        ["- CAN modify: src/{a,b}.py"],
        ["- CAN modify: <list>"],
        ["- CAN modify: everything"],
        ["- CAN modify: anything in src/"],
        ["- CAN modify: a.py b.py"],
        ["- CAN modify: `a.py` but not `b.py`"],
        ["- CAN modify:", "  - the model"],
        ["- CAN modify: a.py", "- CANNOT modify: the harness"],
        ["- CAN modify: a.py", "- CANNOT modify: a.py"],
        ["- CAN modify: a.py", "## Scope", "- CAN modify: b.py"],
    ],
)
def test_a_scope_that_is_unclear_or_leaves_the_folder_is_refused(lines: list[str]) -> None:
    refused("\n".join(["# x", "## Scope", *lines, ML_TRAINING[ML_TRAINING.index("## Eval") :]]))


def test_a_program_without_a_scope_is_refused() -> None:
    assert "CAN modify" in refused(ML_TRAINING[ML_TRAINING.index("## Eval") :]).hint


# --- Eval ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5 minutes per experiment", 300),
        ("3 minutes", 180),
        ("90 seconds", 90),
        ("1h", 3600),
        ("1.5 hours", 5400),
        ("5m", 300),
        ("`300s`", 300),
        ("1h 30m", 5400),
        ("1 hour and 30 minutes (wall clock, 2 GPUs)", 5400),
        ("~2 min", 120),
    ],
)
def test_a_time_reads_as_seconds(written: str, seconds: float) -> None:
    got = parse(with_eval(f"Time budget: {written}", drop="Time")).eval
    assert (got.budget_seconds, got.kill_after_seconds) == (seconds, 2 * seconds)


@pytest.mark.parametrize(
    "written", ["300", "", "soon", "5-10 minutes", "5 parsecs", "500ms", "0 s", "-5 minutes", "<N> minutes"]
)
def test_a_time_without_a_clear_unit_is_refused(written: str) -> None:
    error = refused(with_eval(f"Time budget: {written}", drop="Time"))
    assert error.line == 9
    assert "minutes" in error.hint


def test_a_run_is_killed_after_what_the_program_says() -> None:
    assert parse(with_eval("Kill after: 15 minutes")).eval.kill_after_seconds == 900
    assert refused(with_eval("Kill after: 4 minutes")).line == 9


@pytest.mark.parametrize(
    ("written", "name", "direction"),
    [
        ("`val_bpb` (lower is better)", "val_bpb", "lower"),
        ("val_bpb, lower is better", "val_bpb", "lower"),
        ("**val_bpb** ↓", "val_bpb", "lower"),
        ("accuracy ↑", "accuracy", "higher"),
        ("p99 latency (ms) (lower)", "p99 latency", "lower"),
        ("`p99 latency (ms)`, minimize", "p99 latency (ms)", "lower"),
        ("score (Maximise)", "score", "higher"),
        ("lower bound (higher is better)", "lower bound", "higher"),
        ("higher_rate (lower = better)", "higher_rate", "lower"),
        ("`g_per_s` (higher is better) is the number of generations", "g_per_s", "higher"),
    ],
)
def test_a_metric_has_a_name_and_a_direction(written: str, name: str, direction: str) -> None:
    assert parse(with_eval(f"Metric: {written}", drop="Metric")).eval.metric == Metric(name, Direction(direction))


@pytest.mark.parametrize("said", ["higher", "Higher is better", "↑", "maximize", "`higher`"])
def test_a_direction_may_stand_on_its_own_line(said: str) -> None:
    got = parse(with_eval("Metric: accuracy (dev set)", f"Direction: {said}", drop="Metric")).eval.metric
    assert got == Metric("accuracy", Direction.HIGHER)


@pytest.mark.parametrize(
    "lines",
    [
        ["Metric: accuracy"],
        ["Metric: accuracy (lower is better | higher is better)"],
        ["Metric: accuracy (higher is better)", "Direction: lower"],
        ["Metric: accuracy", "Direction: up and down"],
        ["Metric: (lower is better)"],
        ["Metric: `<name>` (lower is better)"],
        ["Metric:"],
        ["Metric: a ↑", "Metric: b ↑"],
    ],
)
def test_a_metric_without_a_clear_direction_is_refused(lines: list[str]) -> None:
    refused(with_eval(*lines, drop="Metric"))


HARD = r"""python -c "print('a|b')" && awk '{print $2}' run.log | sed 's/\\n/ /' > out"""


@pytest.mark.parametrize(
    ("lines", "command"),
    [
        ([f"Command: `{HARD}`"], HARD),
        ([f"Command: ``{HARD} `date` ``"], f"{HARD} `date` "),
        ([f"Command: {HARD}"], HARD),
        (["Command:", "```bash", HARD, "  indented", "```"], f"{HARD}\n  indented"),
        (["- Command:", "", "  ```", f"  {HARD}", "  ```"], HARD),
        (["Command:", f"`{HARD}`"], HARD),
        (["- **Command:** `make`"], "make"),
        (["**Command**: make (takes a while)"], "make"),
        (["Command: make && (cd x; make)"], "make && (cd x; make)"),
        (["Command: make; (cd x)"], "make; (cd x)"),
        (["Command: echo $(date)"], "echo $(date)"),
        (["Command: echo `date`"], "echo `date`"),
        (["Command: `make` or similar"], "make"),
    ],
)
def test_a_command_is_kept_byte_for_byte(lines: list[str], command: str) -> None:
    assert parse(with_eval(*lines, drop="Command")).eval.command == command


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Command:"],
        ["Command: ``"],
        ["Command: `  `"],
        ["Command: `make"],
        ["Command: `make` && `make bench`"],
        ["Command: `make` && make bench"],
        ["Command: `<command that outputs the metric>`"],
        ["Command:", "```", "", "```"],
        ["Command:", "```", "make"],
        ["Command:", "Setup: `x`"],
        ["Comand: `make`"],
    ],
)
def test_a_command_whose_end_is_unclear_is_refused(lines: list[str]) -> None:
    refused(with_eval(*lines, drop="Command"))


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    error = refused(with_eval("Command: `make`"))
    assert "line 6 and line 9" in error.message
    assert error.line == 9


def test_a_mistyped_key_is_refused_rather_than_ignored() -> None:
    assert "guard" in refused(with_eval("Gaurd: `make test`")).hint


@pytest.mark.parametrize(
    "lines", [["Command:", "- `make`", "- `make x`"], ["Kill-after: 4 minutes"], ["Time-buget: 5 m"]]
)
def test_bullets_and_hyphens_are_read_and_not_passed_over(lines: list[str]) -> None:
    assert refused(with_eval(*lines, drop="Command" if "Command:" in lines else "Parse")).line >= 9


def test_setup_guard_and_holdout_may_be_none() -> None:
    got = parse(with_eval("Setup: none", "Guard: `none`", "Holdout: none")).eval
    assert (got.setup, got.guard, got.holdout) == (None, None, None)


# --- Holdout ---------------------------------------------------------------------------------------------------------

SECRET = "python ~/secret/score.py ."


@pytest.mark.parametrize(
    "lines",
    [
        [f"Holdout: `{SECRET}`"],
        [f"- **Holdout:** `{SECRET}` (secret)", "  which reads ~/secret/test.bin", "  - and secret/more.bin"],
        [f"Hold-out: {SECRET}"],
        [f"Held out: `{SECRET}`"],
        ["Holdout command:", f"`{SECRET}`"],
        ["- Holdout:", "", "  - `" + SECRET + "`"],
        ["Holdout:", "<!-- in secret -->", "", "```bash", SECRET, "```"],
    ],
)
def test_a_holdout_is_read_and_agents_are_not_told(lines: list[str]) -> None:
    got = parse(with_eval(*lines, "Guard: `make test`") + "## Notes\nBe bold.\n")
    assert got.eval.holdout == SECRET and got.eval.guard == "make test"
    assert got.text == with_eval("Guard: `make test`") + "## Notes\nBe bold.\n"
    assert parse(with_eval(*lines[:-1], lines[-1])).eval.holdout == SECRET


def test_a_holdout_of_several_lines_is_kept_whole_and_hidden_whole() -> None:
    got = parse(with_eval("Holdout:", "~~~", "cd ~/secret", "  ./score", "~~~", "Guard: `make test`"))
    assert got.eval.holdout == "cd ~/secret\n  ./score"
    assert got.text == with_eval("Guard: `make test`")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (with_eval(f"Holdout: `{SECRET}`", f"Holdout: `{SECRET}`"), 10),
        (with_eval(f"Holdout eval: `{SECRET}`"), 9),
        (with_eval(f"The held-out command: `{SECRET}`"), 9),
        (with_eval("Holdout:"), 9),
        (with_eval("Holdout: `<command>`"), 9),
        (with_eval(f"<!-- Holdout: {SECRET} -->"), 9),
        (with_eval("```", f"Holdout: {SECRET}", "```"), 10),
        (with_eval("## Holdout", SECRET), 9),
        (with_eval("## Notes", f"- **Hold-out:** {SECRET}"), 10),
    ],
)
def test_a_holdout_that_agents_would_read_of_is_refused(text: str, line: int) -> None:
    assert refused(text).line == line


@given(
    st.lists(st.sampled_from(["Guard: `make`", "- prose", "", "  indented", "Setup: none", "<!-- x -->"]), max_size=6),
    st.sampled_from([f"Holdout: `{SECRET}`", f"- Holdout: {SECRET}", f"Holdout:\n```\n{SECRET}\n```"]),
    st.integers(0, 6),
)
def test_wherever_it_stands_nothing_of_a_holdout_is_left_in_the_text(others: list[str], said: str, at: int) -> None:
    lines = [each for index, each in enumerate(others) if each == "" or each not in others[:index]]
    got = parse(with_eval(*lines[:at], said, *lines[at:]))
    assert got.eval.holdout == SECRET and "secret" not in got.text.lower() and "holdout" not in got.text.lower()
    assert [each for each in lines if each.startswith(("Guard", "Setup", "- ")) and each not in got.text] == []


@pytest.mark.parametrize(
    ("command", "prefix", "found"),
    [
        ("python /secret/score.py .", "", None),
        ("python eval/score.py --x", "", "eval/score.py"),
        ("cd /tmp; ./eval/../eval/score.py", "", "eval/score.py"),
        ("sh -c 'python eval/score.py'", "", "eval/score.py"),
        ("echo $(cat data.bin)|wc", "", "data.bin"),
        ("echo `cat data.bin`", "", "data.bin"),
        ("score --data=data.bin # eval/score.py", "", "data.bin"),
        ("score <data.bin", "", "data.bin"),
        ("python score.py", "eval", "eval/score.py"),
        ("python ../data.bin", "eval", "data.bin"),
        ("python data.bin", "eval", None),
        ("python 'eval/score.py", "", None),
        ("python data.bin 'eval/score.py", "", "data.bin"),
        ("python eval", "", None),
        ("", "", None),
    ],
)
def test_a_command_that_names_a_tracked_file_is_visible(command: str, prefix: str, found: str | None) -> None:
    assert visible(command, ["data.bin", "eval/score.py"], prefix) == found


@given(st.text())
def test_any_command_has_words(command: str) -> None:
    assert visible(command, ["a"], "") in ("a", None)


@pytest.mark.parametrize(
    ("written", "parse_"),
    [
        ('`grep "^x:" run.log` or similar', Parse(ParseKind.COMMAND, 'grep "^x:" run.log')),
        ("jq .score out.json", Parse(ParseKind.COMMAND, "jq .score out.json")),
        ("`./metric.sh`", Parse(ParseKind.COMMAND, "./metric.sh")),
        ("`/usr/bin/jq .score out.json`", Parse(ParseKind.COMMAND, "/usr/bin/jq .score out.json")),
        ("mytool < run.log", Parse(ParseKind.COMMAND, "mytool < run.log")),
        ("regex: `loss=([0-9.]+)`", Parse(ParseKind.REGEX, "loss=([0-9.]+)")),
        ("regex: loss: ([0-9.]+)", Parse(ParseKind.REGEX, "loss: ([0-9.]+)")),
        ("`regex: loss=(.*)`", Parse(ParseKind.REGEX, "loss=(.*)")),
        ("/loss=([0-9.]+)/", Parse(ParseKind.REGEX, "loss=([0-9.]+)")),
        ("`/val loss: (.*)/`", Parse(ParseKind.REGEX, "val loss: (.*)")),
        ("the entire stdout is the number", Parse(ParseKind.STDOUT)),
        ("The entire stdout is the number.", Parse(ParseKind.STDOUT)),
        ("stdout", Parse(ParseKind.STDOUT)),
    ],
)
def test_parse_reads_every_kind(written: str, parse_: Parse) -> None:
    assert parse(with_eval(f"Parse: {written}")).eval.parse == parse_


def test_without_parse_the_metric_is_a_line_of_the_log() -> None:
    assert parse(with_eval()).eval.parse == Parse(ParseKind.LINE)


@pytest.mark.parametrize(
    "written",
    [
        "/loss=([0-9.]+/",
        "regex: `[[a]`",
        "regex: `a{99999999999999999999}`",
        "regex:",
        "look at it",
        "`loss: ([0-9.]+)`",
    ],
)
def test_a_parse_that_is_unclear_is_refused_at_its_line(written: str) -> None:
    assert refused(with_eval(f"Parse: {written}")).line == 9


def test_a_broken_regex_says_why() -> None:
    assert "unterminated" in refused(with_eval("Parse: /loss=([0-9.]+/")).message


# --- The page --------------------------------------------------------------------------------------------------------


def test_headings_read_at_levels_one_to_three_in_any_case() -> None:
    text = (
        FULL.replace("## Scope", "# SCOPE")
        .replace("## Eval", "### Evaluation:")
        .replace("## Strategy", "## strategy ##")
    )
    got, want = parse(text), parse(FULL)
    assert dataclasses.replace(got, text="") == dataclasses.replace(want, text="")


def test_code_and_comments_are_not_read() -> None:
    decoy = (
        "```\n## Eval\nCommand: `no`\n```\n<!--\n## Scope\n- CAN modify: no.py\n-->\n~~~~\n```\n~~~\n## Notes\n~~~~\n"
    )
    got = parse(decoy + ML_TRAINING)
    assert (got.eval, got.scope, got.notes) == (parse(ML_TRAINING).eval, parse(ML_TRAINING).scope, "")


@pytest.mark.parametrize("opening", ["```python", "~~~", "<!-- later"])
def test_what_is_never_closed_is_refused_where_it_opens(opening: str) -> None:
    assert refused(f"# x\n\n{opening}\n{ML_TRAINING}").line == 3


def test_unknown_sections_stay_in_the_text() -> None:
    text = ML_TRAINING + "## Background\nMetric: none of this counts\n"
    assert parse(text).text == text
    assert parse(text).eval == parse(ML_TRAINING).eval


def test_headings_inside_the_strategy_belong_to_it() -> None:
    assert parse(ML_TRAINING + "## Strategy\n### Eval\nFirst.\n").strategy == "### Eval\nFirst."


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("# Autoresearch: nanochat\n", "nanochat"),
        ("# autoresearch: x #\n", "x"),
        ("# Faster\n", "Faster"),
        ("", "mine"),
    ],
)
def test_the_title_is_the_first_heading(head: str, title: str) -> None:
    text = head + ML_TRAINING[ML_TRAINING.index("## Scope") :]
    assert parse(text, file="somewhere/mine.md").title == title


# --- Front matter and flags ------------------------------------------------------------------------------------------


def front(*lines: str) -> Program:
    return parse("\n".join(["---", *lines, "---", ML_TRAINING]))


def test_every_option_can_be_written() -> None:
    got = front(
        "tag: t", "agent: command", "agent_command: |", "  claude -p", "model: opus", "agent_minutes: 2.5",
        "secrets: [A_KEY, B_KEY]", "env:", "- HF_HOME", "workers: 8", "gpus_per_worker: 0.5", "lanes: 2",
        "monitor: nvml", "policy: {name: greedy, every: 8}",
        "stop: {experiments: 1, evaluations: 2, hours: 1e1, cost_usd: 5.5, target: -0.5, plateau: 9}",
        "address: ray://head:10001", "backend: local", "allow_dirty: yes", "mirror: nas:x.git", "mirror_minutes: 2.5",
        "sandbox: none", "network: yes", "disk_gb: 2.5", "agent_home: [~/.config/tool, /srv/state]",
        "base_url: http://localhost:8000/v1", "temperature: 0.5", "extra_args: [--effort, high]",
        "agents: [{agent: claude, model: opus, weight: 2}, {agent: codex, name: other}]",
        "prices: {opus: {input: 15, output: 75, cached: 1.5}}",
    ).options  # fmt: skip
    assert got == Options(
        tag="t", agent="command", agent_command="claude -p\n", model="opus", agent_minutes=2.5,
        secrets=("A_KEY", "B_KEY"), env=("HF_HOME",), workers=8, gpus_per_worker=0.5, lanes=2, monitor="nvml",
        policy="greedy", every=8, experiments=1, evaluations=2, hours=10.0, cost_usd=5.5, target=-0.5, plateau=9,
        address="ray://head:10001", backend="local", allow_dirty=True, mirror="nas:x.git", mirror_minutes=2.5,
        sandbox="none", network=True, disk_gb=2.5, agent_home=("~/.config/tool", "/srv/state"),
        base_url="http://localhost:8000/v1", temperature=0.5, extra_args=("--effort", "high"),
        agents=(Member("claude", model="opus", weight=2.0), Member("codex", name="other")),
        prices={"opus": Price(15.0, 75.0, 1.5)},
    )  # fmt: skip
    assert all(getattr(got, each.name) != each.default for each in dataclasses.fields(Options))


def test_flat_and_nested_forms_are_the_same() -> None:
    assert (
        front("policy: greedy", "every: 8", "hours: 2").options
        == front("policy: {name: greedy, every: 8}", "stop:", "  hours: 2").options
    )


def test_a_key_without_a_value_is_the_default() -> None:
    assert front("tag:", "hours: null", "model: ~").options == Options()
    assert parse("\n---\n---\n" + ML_TRAINING).options == Options()


@pytest.mark.parametrize(
    ("written", "tag"), [("1120", "1120"), ("2024-11-20", "2024-11-20"), ("007", "007"), ("1e3", "1e3")]
)
def test_a_tag_stays_as_it_was_written(written: str, tag: str) -> None:
    assert front(f"tag: {written}").options.tag == tag


@pytest.mark.parametrize("tag", ["-a", ".a", "a..b", "a.lock", "a.", "a b", "a/b", "ä", "''", "a" * 101, "[a]", "a~1"])
def test_a_tag_that_is_no_branch_is_refused(tag: str) -> None:
    error = refused(f"---\nagent: claude\ntag: {tag}\n---\n{ML_TRAINING}")
    assert (error.line, error.hint) == (3, "for example: tag: nov20")


@pytest.mark.parametrize(
    "line",
    [
        "workers: 0", "workers: -1", "workers: many", "workers: 1.5", "gpus_per_worker: -1", "gpus_per_worker: 1.5",
        "lanes: 0", "policy: {every: 0}", "policy: {each: 4}", "policy: [greedy]", "stop: {hours: 0}", "stop: 8",
        "stop: {hour: 8}", "hours: nan", "hours: inf", "target: .nan", "cost_usd: -1", "experiments: 0", "plateau: 0",
        "stop: {evaluations: 0}", "evaluations: 1.5", "mirror: ''", "mirror: [a]", "mirror_minutes: 0",
        "agent_minutes: 0", "secrets: A", "secrets: [A=1]", "secrets: [[A]]", "env: {A: 1}", "backend: slurm",
        "allow_dirty: perhaps", "agent: ''", "agent: {x: 1}", "worker: 8", "gpus-per-worker: 1", "[a]: 1", "? {a: b}",
        "agent: codex\nagent: codex", "hours: 1\nstop: {hours: 2}", "tag: [", "- tag", "just words", "tag: 'x",
        "a: &a [*a]", "<<: {tag: x}", "tag: \x01",
    ],
)  # fmt: skip
def test_front_matter_that_is_wrong_is_refused_near_its_line(line: str) -> None:
    error = refused(f"---\ntag: first\n{line}\n---\n{ML_TRAINING}".replace("tag: first\ntag", "model: first\ntag"))
    assert 2 <= error.line <= 5


def test_front_matter_errors_name_the_line_the_key_and_the_known_keys() -> None:
    error = refused(f"---\ntag: x\n\nstop:\n  hours: 8\n  cost: 5\n---\n{ML_TRAINING}")
    assert error.line == 6
    assert "'cost' is not known in stop" in error.message
    assert "cost_usd" in error.hint
    error = refused(f"---\nworker: 8\n---\n{ML_TRAINING}")
    assert "did you mean workers?" in error.hint
    assert all(each.name in error.hint for each in dataclasses.fields(Options))


def test_a_line_is_counted_in_the_whole_file() -> None:
    text = FULL.replace("Time budget: 5 minutes per experiment", "Time budget: 5")
    assert refused(text).line == text.split("\n").index("Time budget: 5") + 1


def test_front_matter_that_is_never_closed_is_refused() -> None:
    assert refused(f"---\ntag: x\n{ML_TRAINING}").line == 1


def test_the_value_of_a_secret_is_never_shown() -> None:
    error = refused(f"---\nsecrets: [KEY=hunter2]\n---\n{ML_TRAINING}")
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "mirror",
    [
        "https://ann:hunter2@example.org/x.git", "https://hunter2@example.org/x.git", "HTTP://hunter2@example.org/x.git",
        "https://example.org/x.git?private_token=hunter2", "ssh://ann:hunter2@example.org/x.git",
        "git://ann:hunter2@example.org/x.git", "x::https://hunter2@example.org/x.git", "https://ann:hunter2@@example.org/x.git",
    ],
)  # fmt: skip
def test_a_mirror_with_a_password_is_refused_and_not_shown(mirror: str) -> None:
    error = refused(f"---\nmirror: {mirror}\n---\n{ML_TRAINING}")
    assert error.line == 2 and "password" in error.message and "hunter2" not in str(error)


@pytest.mark.parametrize(
    "mirror",
    ["origin", "/mnt/a b/mirror", "../m@x:y/z", "git@example.org:x/y.git", "ssh://git@example.org:22/x", "nas:x"],
)
def test_a_mirror_is_a_remote_a_url_or_a_path(mirror: str) -> None:
    assert front(f"mirror: {mirror}").options.mirror == mirror


def test_flags_beat_front_matter_and_none_was_not_given() -> None:
    base = Options(tag="t", hours=8.0, workers=4)
    got = program.options(base, {"workers": 2, "hours": None, "secrets": ["A"], "tag": None, "allow_dirty": True})
    assert got == Options(tag="t", hours=8.0, workers=2, secrets=("A",), allow_dirty=True)


@pytest.mark.parametrize(
    "changes", [{"workers": 0}, {"hours": -1.0}, {"tag": "-x"}, {"backend": "k8s"}, {"lanes": [1]}]
)
def test_a_bad_flag_is_named_with_an_example(changes: dict[str, object]) -> None:
    with pytest.raises(ProgramError) as caught:
        program.options(Options(), changes)
    assert next(iter(changes)) in caught.value.message
    assert next(iter(changes)) in caught.value.hint


def test_an_unknown_flag_lists_the_known_ones() -> None:
    with pytest.raises(ProgramError, match="'gpus' is not known") as caught:
        program.options(Options(), {"gpus": 1})
    assert all(each.name in caught.value.hint for each in dataclasses.fields(Options))


# --- Nothing else than a Program or a ProgramError -------------------------------------------------------------------


def survives(text: str, toml: str | None = None) -> None:
    try:
        got = parse(text, toml=toml)
    except ProgramError as error:
        assert error.message
        assert error.hint
        assert error.line >= 1
        limit = max(each.replace("\r", "\n").count("\n") + 1 for each in (text, toml or ""))
        assert error.line <= limit
    else:
        assert got.scope.can
        assert got.eval.command.strip()
        assert 0 < got.eval.budget_seconds <= got.eval.kill_after_seconds
        assert "\r" not in got.text


PIECES = sorted({line + "\n" for text in [*EXAMPLES, TEMPLATE] for line in text.splitlines()})
CHARACTERS = st.text(alphabet="`*#-:()[]{}<>/\\.,;&|'\"~! \t\n\r0aAé\ufeff\u2028\x00\x0b", max_size=12)


@given(st.text())
@example("\ud800")
@example("---\n\ud800\n---\n")
def test_any_text_reads_or_is_refused(text: str) -> None:
    survives(text)
    survives(f"---\n{text}\n---\n{ML_TRAINING}")
    survives("# x", text)
    survives(with_eval(f"Parse: {text}"))


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | CHARACTERS, max_size=25))
def test_shuffled_programs_read_or_are_refused(pieces: list[str]) -> None:
    survives("".join(pieces))


@settings(max_examples=300)
@given(st.sampled_from([*EXAMPLES, TEMPLATE]), st.data())
def test_mutated_programs_read_or_are_refused(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + data.draw(CHARACTERS) + text[end:]
    survives(text)


@given(st.integers(0, len(TOML)), st.integers(0, 20), CHARACTERS)
def test_mutated_tomls_read_or_are_refused(start: int, length: int, put: str) -> None:
    survives("# x", TOML[:start] + put + TOML[start + length :])


@pytest.mark.parametrize("deep", ["[" * 5000, "{a: " * 5000, "- " * 5000])
def test_deep_nesting_is_refused(deep: str) -> None:
    refused(f"---\ntag: {deep}\n---\n{ML_TRAINING}")
    refused("# x", toml=f"a = {deep}")
    survives(with_eval(f"Parse: regex: {'(' * 5000}x{')' * 5000}"))


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="`\n\r", exclude_categories=["Cs"]), min_size=1).filter(
        lambda each: each.strip() and not re.fullmatch(r"\s*<[^<>]*>\s*", each) and each[0] + each[-1] != "  "
    )
)
def test_a_command_in_backticks_comes_back_as_it_was(command: str) -> None:
    assert parse(with_eval(f"Command: `{command}` (a remark)", drop="Command")).eval.command == command


@given(st.integers(1, 10**6), st.sampled_from(["s", "m", "h"]))
def test_a_whole_time_reads_exactly(number: int, unit: str) -> None:
    got = parse(with_eval(f"Time budget: {number}{unit}", drop="Time")).eval.budget_seconds
    assert got == number * {"s": 1, "m": 60, "h": 3600}[unit]
