"""What has no effect and is refused, and what has one and is measured, kind by kind."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.sameness import LARGEST_BYTES, no_effect

PYTHON = [
    # comments, white space, docstrings
    ("x = 1\n", "x = 1  # one\n"),
    ("x = 1\n", "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx = 1\n"),
    ("x = []\n", "x = []  # type: list[int]\n"),
    ("x = (1, 2)\n", "x = (\n    1,\n    2,\n)\n"),
    ("if a:\n  x = 1\n", "if a:\n\n        x   =   1\n"),
    ("x = 1\n", '"""What this is."""\nx = 1\n'),
    ("def f():\n    return 1\n", 'def f():\n    """Say one."""\n    return 1\n'),
    ("def f():\n    pass\n", 'def f():\n    """Do nothing."""\n'),
    ("class A:\n    x = 1\n", 'class A:\n    """What A is."""\n\n    x = 1\n    """What x is."""\n'),
    ("x = 'a' 'b'\n", 'x = "ab"\n'),
    ("x = 1000\n", "x = 1_000\n"),
    ("x = 1\r\n", "x = 1\n"),
    ("x = 1", "x = 1\n\n\n"),
    (r"x = '\d'", r"x = '\d'  # warns of its escape"),
    # seeds
    ("SEED = 42\n", "SEED = 1337\n"),
    ("RANDOM_SEED = 42\n", "RANDOM_SEED = -1\n"),
    ("seed: int = 1\n", "seed: int = 2\n"),
    ("seed = None\n", "seed = 7\n"),
    ("self.data_seed = 1\n", "self.data_seed = 2\n"),
    ("dataSeed = 1\n", "dataSeed = 2\n"),
    ("os.environ['PYTHONHASHSEED'] = '0'\n", "os.environ['PYTHONHASHSEED'] = '1'\n"),
    ("config['seed'] = 0\n", "config['seed'] = 1\n"),
    ("a = seed = 1\n", "a = seed = 2\n"),
    ("seed += 1\n", "seed += 2\n"),
    ("(seed := 1)\n", "(seed := 2)\n"),
    ("SEED = 1000 + rank\n", "SEED = 1001 + rank\n"),
    ("SEED = int(os.environ.get('SEED', '1'))\n", "SEED = int(os.environ.get('SEED', '2'))\n"),
    ("seed = args.seed or 1\n", "seed = args.seed or 2\n"),
    ("class C:\n    seed: int = field(default=1)\n", "class C:\n    seed: int = field(default=2)\n"),
    ("torch.manual_seed(1337)\n", "torch.manual_seed(1338)\n"),
    ("torch.cuda.manual_seed_all(1337 + offset)\n", "torch.cuda.manual_seed_all(7 + offset)\n"),
    ("np.random.default_rng(3)\n", "np.random.default_rng(4)\n"),
    ("random.seed(0)\n", "random.seed(1)\n"),
    ("random.Random(1)\n", "random.Random(2)\n"),
    ("jax.random.PRNGKey(1)\n", "jax.random.PRNGKey(2)\n"),
    ("seed_everything(1, workers=True)\n", "seed_everything(2, workers=True)\n"),
    ("f(x, seed=7)\n", "f(x, seed=8)\n"),
    ("train_test_split(x, random_state=7)\n", "train_test_split(x, random_state=8)\n"),
    ("def f(x, seed=0): return x\n", "def f(x, seed=1): return x\n"),
    ("def f(x=1, *, rng_seed=0): return x\n", "def f(x=1, *, rng_seed=1): return x\n"),
    ('c = {"seed": 1, "x": 2}\n', 'c = {"seed": 3, "x": 2}\n'),
    ('p.add_argument("-s", "--seed", type=int, default=1)\n', 'p.add_argument("-s", "--seed", type=int, default=2)\n'),
    ('seed = getattr(args, "seed", 1)\n', 'seed = getattr(args, "seed", 2)\n'),
    # what another Python can read, but not this one
    ("x = = 1\n", "x = = 1  \n\n"),
    ("x = = 1\nSEED = 1\n", "x = = 1\nSEED = 2\n"),
]
PYTHON_THAT_COUNTS = [
    ("x = 1\n", "x = 2\n"),
    ("x = 1\n", "x = 1.0\n"),
    ("x = 1\n", "x = True\n"),
    ("x = 'a b'\n", "x = 'a  b'\n"),
    ("x = '''a\n# b\n'''\n", "x = '''a\n'''\n"),
    ("if a:\n    x = 1\n    y = 2\n", "if a:\n    x = 1\ny = 2\n"),
    ("f(1)\n", "f(1)\nprint('hello')\n"),
    ("x = 1\n", "x = 1\n'{}'.format(f())\n"),
    ("def f(x: int): pass\n", "def f(x: float): pass\n"),
    # docstrings that somebody reads
    ("print(__doc__)\n", '"""Usage."""\nprint(__doc__)\n'),
    ('@tool\ndef f():\n    """Search."""\n', '@tool\ndef f():\n    """Search well."""\n'),
    ('class QA(Signature):\n    """Answer."""\n', 'class QA(Signature):\n    """Answer in brief."""\n'),
    # comments that somebody reads
    ('# /// script\n# dependencies = ["a"]\n# ///\n', '# /// script\n# dependencies = ["b"]\n# ///\n'),
    # not seeds
    ("SEED_LENGTH = 5\n", "SEED_LENGTH = 6\n"),
    ("n_seeds = 5\n", "n_seeds = 6\n"),
    ("seedling = 5\n", "seedling = 6\n"),
    ("reseed = 5\n", "reseed = 6\n"),
    ("seed_everything_steps = 5\n", "seed_everything_steps = 6\n"),
    ("fix_seed = True\n", "fix_seed = False\n"),
    ("seed = 'Once upon a time'\n", "seed = 'It was a dark night'\n"),
    ("seed = x[0]\n", "seed = x[1]\n"),
    ("seed = grow(2)\n", "seed = grow(3)\n"),
    ("seed = 1\n", "seed = [1]\n"),
    ("if seed > 1: f()\n", "if seed > 2: f()\n"),
    ("f(seed, 1)\n", "f(seed, 2)\n"),
    ("f('seed', 1)\n", "f('seed', 2)\n"),
    ("torch.manual_seed(1)\n", "torch.manual_seed(1)\ntorch.manual_seed(1)\n"),
    ("default_rng(3).normal(0, 1)\n", "default_rng(3).normal(0, 2)\n"),
    ("random.random(1)\n", "random.random(2)\n"),
    ("f(seed=1, x=1)\n", "f(seed=1, x=2)\n"),
    ("def f(x=1, seed=0): return x\n", "def f(x=2, seed=0): return x\n"),
    ('p.add_argument("--steps", default=1)\n', 'p.add_argument("--steps", default=2)\n'),
    # what does not parse
    ("x = 1\n", "x = = 1\n"),
    ("x = = 1\nif a:\n    b\n", "x = = 1\nif a:\nb\n"),
    ("x = = 1\n", "x = = 1  # a comment, or a part of a text\n"),
]
TEXT = [
    ("run.sh", "#!/bin/sh\npython x.py\n", "#!/bin/sh\n\n# run it\n  python   x.py\n"),
    ("run.sh", "python x.py --seed 1\n", "python x.py --seed 2\n"),
    ("run.sh", "python x.py --data-seed=1\n", "python x.py --data-seed=2\n"),
    ("run.sh", "SEED=1 python x.py\n", "SEED=2 python x.py\n"),
    ("run.sh", "python x.py \\\n  --seed 1\n", "python x.py \\\n  --seed 2\n"),
    ("c.yaml", "a:\n  b:  1\n", "# what a is\na:\n\n  b: 1  \n"),
    ("c.yaml", "seed: 1\n", "seed: 2\n"),
    ("c.yml", 'train:\n  random_state: "1"\n', 'train:\n  random_state: "2"\n'),
    ("c.yaml", "prompt: |\n  # Title\nseed: 1\n", "prompt: |\n  # Title\nseed: 2\n"),
    ("c.ini", "[a]\nb = 1\n", "[a]\n# what b is\nb = 1\n"),
    ("c.toml", "a = 1\nb = 'x # y'\n", "# what a is\na   = 1\n\nb = 'x # y'\n"),
    ("c.toml", "[train]\nseed = 1\n", "[train]\nseed = 2\n"),
    ("c.json", '{"a": [1, {"b": 2}]}', '{\n  "a": [1, {"b": 2}]\n}\n'),
    ("c.json", '{"train": {"seed": 1}}', '{"train": {"seed": 2}}'),
    ("c.json", '{"dataSeed": "1"}', '{"dataSeed": "2"}'),
    ("c.json", '// not strict\n{"seed": 1}\n', '// not strict\n{"seed": 2}\n'),
    ("k.cu", "int x = 1;\n", "// one\n  int  x = 1;\n\n"),
    ("k.cpp", "srand(1); torch::manual_seed(1);\n", "srand(2); torch::manual_seed(2);\n"),
    ("m.go", "seed := 1\n", "seed := 2\n"),
    ("prompt.txt", "a\nb\n", "a  \nb\n\n"),
    ("README.md", "# a\n", "# a \n"),
    ("Makefile", "a:\n\tb\n", "a:\n\tb \n\n"),
    ("table.csv", "a,b\r\n", "a,b\n"),
]
TEXT_THAT_COUNTS = [
    ("run.sh", "#!/bin/sh\n", "#!/bin/bash\n"),
    ("run.sh", "a b\n", "ab\n"),
    ("run.sh", "echo 'a b'\n", "echo 'a  b'\n"),
    ("run.sh", "cat <<E\n# a\nE\n", "cat <<E\n# b\nE\n"),
    ("run.sh", "python x.py \\\n  -a\n", "python x.py \\\n# no\n  -a\n"),
    ("run.sh", "a \\\n  b\n", "a \\ \n  b\n"),
    ("run.sh", "x --seed 1 --steps 1\n", "x --seed 1 --steps 2\n"),
    ("run.sh", "x --seed-length 1\n", "x --seed-length 2\n"),
    ("run.sh", "[ $seed == 1 ]\n", "[ $seed == 2 ]\n"),
    ("c.yaml", "a:\n  b: 1\nc: 2\n", "a:\n  b: 1\n  c: 2\n"),
    ("c.yaml", "prompt: |\n  # Title\n", "prompt: |\n  # Other\n"),
    ("c.yaml", "prompt: >-\n  a\n  b\n", "prompt: >-\n  a\n\n  b\n"),
    ("c.yaml", 'a: "b  c"\n', 'a: "b c"\n'),
    ("c.yaml", "a: 1\n", "# @package _global_\na: 1\n"),
    ("c.yaml", "n_seeds: 1\n", "n_seeds: 2\n"),
    ("c.yaml", "seed: 1.5.2\n", "seed: 1.5.3\n"),
    ("c.toml", "a = 'x  y'\n", "a = 'x y'\n"),
    ("c.toml", 'a = """\n# b\n"""\n', 'a = """\n# c\n"""\n'),
    ("c.json", '{"a": "b  c"}', '{"a": "b c"}'),
    ("c.json", '{"a": 1}', '{"a": 2}'),
    ("c.json", '{"seed": "a"}', '{"seed": "b"}'),
    ("k.c", "#define N 1\n", "#define N 2\n"),
    ("k.c", "#define F (x)\n", "#define F(x)\n"),
    ("k.c", "int x = 1;\n", "// \\\nint x = 1;\n"),
    ("k.js", "x = `\n// a\n`\n", "x = `\n// b\n`\n"),
    ("m.go", "package m\n", "//go:build linux\npackage m\n"),
    ("prompt.txt", "a b\n", "a  b\n"),
    ("prompt.txt", "# a\nb\n", "b\n"),
    ("prompt.txt", "a\n\nb\n", "a\nb\n"),
    ("prompt.txt", "use seed: 1\n", "use seed: 2\n"),
    ("README.md", "# a\n", "# b\n"),
    ("Makefile", "a:\n\tb\n", "a:\n    b\n"),
    ("Makefile", "# a\n", "# b\n"),
    ("table.csv", "1, 2\n", "1,2\n"),
    ("odd.xyz", "# a\n", "# b\n"),
]


def both(path: str, before: str, after: str) -> bool:
    """The same either way."""
    found = no_effect(path, before.encode(), after.encode())
    assert found is no_effect(path, after.encode(), before.encode())
    return found


@pytest.mark.parametrize(("before", "after"), PYTHON)
def test_python_that_differs_in_nothing_that_counts_has_no_effect(before: str, after: str) -> None:
    assert both("src/train.py", before, after)


@pytest.mark.parametrize(("before", "after"), PYTHON_THAT_COUNTS)
def test_python_that_differs_in_what_counts_has_an_effect(before: str, after: str) -> None:
    assert not both("src/train.py", before, after)


@pytest.mark.parametrize(("path", "before", "after"), TEXT)
def test_text_that_differs_in_nothing_that_counts_for_its_kind_has_no_effect(
    path: str, before: str, after: str
) -> None:
    assert both(path, before, after)


@pytest.mark.parametrize(("path", "before", "after"), TEXT_THAT_COUNTS)
def test_text_that_differs_in_what_counts_for_its_kind_has_an_effect(path: str, before: str, after: str) -> None:
    assert not both(path, before, after)


def test_a_new_or_deleted_file_has_an_effect_unless_it_is_python_that_says_nothing() -> None:
    assert no_effect("new.py", None, b"# nothing yet\n")
    assert no_effect("new.py", None, b'"""Nothing yet."""\n')
    assert not no_effect("new.py", None, b"x = 1\n")
    assert not no_effect("new.py", b"# nothing\n", None)
    assert not no_effect("new.yaml", None, b"# nothing\n")
    assert not no_effect("new.txt", None, b"")
    assert not no_effect("SEED", None, b"1\n")


def test_what_is_no_text_is_compared_by_bytes() -> None:
    assert no_effect("weights.bin", b"\xff\0", b"\xff\0")
    for path in ("weights.bin", "train.py", "c.json", "c.yaml", "notes.txt"):
        assert not no_effect(path, b"a\xff", b"a\xff ")
        assert not no_effect(path, b"a\0", b"a\0 ")


def test_a_large_file_is_data() -> None:
    large = b"#" * LARGEST_BYTES
    assert no_effect("train.py", large, large[1:])
    assert not no_effect("train.py", large, large + b"#")
    assert not no_effect("train.py", large + b"#", large)


def test_odd_escapes_in_a_candidate_warn_nobody() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert no_effect("train.py", rb"x = '\d'", rb"x = '\d' ")
    assert seen == []


DEEP = {
    "brackets": b"[" * 50_000,
    "minus": b"-" * 50_000 + b"1",
    "dots": b"a" + b".a" * 50_000,
    "sums": b"seed = 1" + b"+1" * 50_000,
    "powers": b"1" + b"**1" * 3_000,
    "lambdas": b"lambda:" * 50_000 + b"1",
    "digits": b"1" * 50_000,
    "hexadecimal": b"x = 0x" + b"1" * 50_000,
    "blocks": b"".join(b" " * depth + b"if 1:\n" for depth in range(200)),
    "objects": b'{"a":' * 50_000,
    "words": b"_seed" * 50_000,
    "underscores": b"_" * 500_000,
}


@pytest.mark.parametrize("path", ["train.py", "c.json", "c.toml", "c.yaml", "k.c"])
@pytest.mark.parametrize("name", DEEP)
def test_what_is_deep_or_long_is_compared_all_the_same(path: str, name: str) -> None:
    assert not no_effect(path, b"x", DEEP[name])
    assert not no_effect(path, DEEP[name] + b"\nx", DEEP[name] + b"\ny")


PATHS = st.sampled_from(["a.py", "a.json", "a.toml", "a.yaml", "a.sh", "a.c", "a.txt", "Makefile", "", "\udcff.py"])
PIECES = st.lists(
    st.sampled_from(
        [*"\"'`#/\\|>:=,.[](){}<\n\t\r -+0123_", "seed", "SEED", "x", "def ", "class ", "lambda", "://", "\ufeff", "é"]
    )
).map("".join)


@given(path=PATHS, before=st.none() | st.binary() | PIECES.map(str.encode), after=st.binary() | PIECES.map(str.encode))
def test_nothing_that_an_agent_writes_is_an_error(path: str, before: bytes | None, after: bytes) -> None:
    assert no_effect(path, before, after) in (True, False)
    assert no_effect(path, after, after)
    assert no_effect(path, after, None) is False


@given(text=PIECES, more=st.sampled_from(["\n", " ", "\t\n\n", "\r\n"]))
def test_white_space_at_the_end_never_counts_in_text(text: str, more: str) -> None:
    if not text.endswith("\\"):
        assert both("notes.txt", text, text + more)


@given(seed=st.integers(), other=st.integers(-(10**9), 10**9))
def test_any_number_is_a_seed(seed: int, other: int) -> None:
    assert both("a.py", f"SEED = {seed}\n", f"SEED = {other}\n")
    assert both("a.json", f'{{"seed": {seed}}}', f'{{"seed": {other}}}')
    assert both("a.yaml", f"seed: {seed}\n", f"seed: {other}\n")
