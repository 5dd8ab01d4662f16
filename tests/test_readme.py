"""What the pages promise: their commands, targets, paths and links are there, and their examples run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from autoresearch_ray import program
from autoresearch_ray.cli import VERBS, main
from tests.conftest import Toy

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *sorted({*ROOT.glob("*.md")} - {README, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"}),
    *sorted(page for folder in ("examples", "cluster", "benchmarks") for page in (ROOT / folder).rglob("README.md")),
]
SHELL = ("", "sh", "bash", "console")
OURS = re.compile(r"autoresearch[-_]ray|\bmake\b|\bbenchmarks\b")

# The README runs on eight GPUs with an agent that needs an account; here the same lines run on neither.
AS_WRITTEN = 'workers=8, agent="claude", hours=8'
AS_RUN = 'backend="local", gpus_per_worker=0, workers=1, agent="knobs", experiments=1'


def fences(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: language and content."""
    return re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```\s*$", text, re.M | re.S)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```\s*$", "", text, flags=re.M | re.S)


def spans(text: str) -> list[str]:
    """The code between backticks, which a line break in a paragraph does not end."""
    return [" ".join(each.split()) for part in prose(text).split("\n\n") for each in re.findall(r"`([^`]+)`", part)]


def shell_lines(text: str) -> Iterator[str]:
    """What a reader may type: fenced and indented blocks of shell, and code in a paragraph."""
    blocks = [block for language, block in fences(text) if language in SHELL]
    blocks += re.findall(r"(?:^|\n\n)((?: {4}\S.*\n?)+)", prose(text))
    for block in blocks:
        lines = block.replace("\\\n", " ").splitlines()
        typed = [line.removeprefix("$ ") for line in map(str.strip, lines) if line.startswith("$ ")]
        yield from typed or lines
    yield from spans(text)


def commands(line: str) -> Iterator[list[str]]:
    """The words of each simple command of a line; those behind a redirection make one of their own, which is none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            yield words[:-1] if word[0] in "<>" and words[-1:] and words[-1].isdigit() else words
            words = []
        else:
            words.append(word)
    yield words


def typed(text: str) -> list[list[str]]:
    return [words for line in shell_lines(text) if OURS.search(line) for words in commands(line)]


def arguments(words: list[str]) -> list[str] | None:
    """What stands behind the name of the program; None where the words do not call it."""
    for name in (["autoresearch-ray"], ["-m", "autoresearch_ray"]):
        for start in range(len(words)):
            if words[start : start + len(name)] == name and not {"install", "clone", "cd"} & set(words[:start]):
                return words[start + len(name) :]
    return None


def refusal(given: list[str]) -> str:
    """What the command line says against these arguments; nothing if it takes them."""
    context = click.Context(main, **main.context_settings)
    command: click.Command | None = main
    if given and not given[0].startswith("-"):
        command = main.get_command(context, given[0])
        given = given[1:]
    if command is None:
        return "there is no such verb"
    try:
        _, left, _ = command.make_parser(click.Context(command, parent=context)).parse_args(list(given))
    except click.UsageError as error:
        return error.format_message()
    return f"unexpected: {' '.join(left)}" if left else ""


def refused(text: str) -> list[str]:
    calls = [given for words in typed(text) if (given := arguments(words)) is not None]
    return [f"autoresearch-ray {shlex.join(given)}: {why}" for given in calls if (why := refusal(given))]


def slugs(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


# --- The tools of this page find what is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`autoresearch-ray fly`", "no such verb"),
        ("```sh\nautoresearch-ray run program.md --wings 2  # on a plane's wing\n```", "--wings"),
        ("```sh\nautoresearch-ray run \\\n    --experiments\n```", "requires an argument"),
        ("```console\n$ autoresearch-ray log -n 3 --wings\nit's output\n```", "--wings"),
        ("Then:\n\n    cd x && python -m autoresearch_ray stop t1\n", "unexpected: t1"),
        ("`git merge $(autoresearch-ray\nbest --wings | jq -r .branch)`", "--wings"),
    ],
)
def test_a_command_that_does_not_exist_is_found(text: str, said: str) -> None:
    (found,) = refused(text)
    assert said in found


@pytest.mark.parametrize(
    "text",
    [
        "`autoresearch-ray`, `autoresearch-ray --version`, `autoresearch-ray run -h`",
        "```sh\npip install 'autoresearch-ray[knobs]'; autoresearch-ray export --format=csv 2>&1 > it.csv\n```",
        "```python\n# autoresearch-ray fly\n```",
        "```sh\nautoresearch-ray watch --json | jq -r 'select(.status == \"keep\")'\n```",
    ],
)
def test_a_command_that_exists_is_let_through(text: str) -> None:
    assert refused(text) == []


# --- The pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_keeps_its_word(page: Path) -> None:
    text = page.read_text()
    assert refused(text) == []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    made = {
        each for words in typed(text) if words[:1] == ["make"] for each in words[1:] if re.fullmatch(r"[\w-]+", each)
    }
    assert made <= targets, f"the Makefile makes {', '.join(sorted(targets))}"
    benchmarks = set(re.findall(r"-m benchmarks\.(\w+)", text))
    folders = {each.parent.name for each in (ROOT / "benchmarks").glob("*/__main__.py")}
    assert benchmarks <= {each.stem for each in (ROOT / "benchmarks").glob("*.py")} | folders


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_at_is_there(page: Path) -> None:
    text = page.read_text()
    plain = re.sub(r"`[^`]*`", "", prose(text))
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]: (\S+)|(?:src|href)=\"([^\"]+)\"", plain, re.M)
    broken = []
    for link in filter(None, (part for found in links for part in found)):
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        if not re.match(r"[a-z]+:", link) and not (there.exists() and (not anchor or anchor in slugs(there))):
            broken.append(link)
    assert broken == []
    # A path in the text counts from the page, from the top, or from the package; a test may do without its folder.
    pattern = r"\w[\w.-]*(/[\w.-]+)+\.(py|md|toml|ya?ml|sh)|test_\w+\.py"
    places = (page.parent, ROOT, ROOT / "autoresearch_ray", ROOT / "tests")
    files = [each for each in spans(text) if re.fullmatch(pattern, each)]
    assert [each for each in files if not any((place / each).exists() for place in places)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_program_on_a_page_reads(page: Path) -> None:
    for language, block in fences(page.read_text()):
        if language in ("markdown", "md") and "## Eval" in block:
            assert program.parse(block).eval.command


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_in_the_help_are_commands_that_exist(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    lines = [
        line for line in f"{command.help}\n{command.epilog or ''}".splitlines() if f"autoresearch-ray {verb}" in line
    ]
    calls = [given for line in lines for words in commands(line) if (given := arguments(words)) is not None]
    assert calls and [f"{shlex.join(given)}: {why}" for given in calls if (why := refusal(given))] == []


def test_the_benchmarks_that_the_makefile_runs_are_there() -> None:
    named = re.findall(r"-m benchmarks\.(\w+)", (ROOT / "Makefile").read_text())
    assert named and [each for each in named if not (ROOT / "benchmarks" / f"{each}.py").exists()] == []


def test_the_readme_names_every_agent() -> None:
    agents = {each.stem for each in (ROOT / "autoresearch_ray" / "agents").glob("[!_]*.py")}
    assert agents <= set(spans(README.read_text()))


def test_the_example_of_the_readme_runs(toy: Toy) -> None:
    (code,) = (block for language, block in fences(README.read_text()) if language == "python" and "research(" in block)
    assert code.count(AS_WRITTEN) == 1
    done = subprocess.run(
        [sys.executable, "-c", code.replace(AS_WRITTEN, AS_RUN)], cwd=toy.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    baseline, experiment, *_, best = done.stdout.splitlines()
    assert baseline.startswith("#0 [keep]") and experiment.startswith("#1 [")
    assert re.match(r"#[01] \[keep\]", best)
    assert (toy.folder / "morning.md").read_text().startswith("# toy (t1)\n")
