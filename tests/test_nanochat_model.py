"""The nanochat example's train.py: the model is causal, the optimiser does what it says, all knobs turn."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")  # the package itself needs none

from autoresearch_ray.agents import _constants  # noqa: E402
from autoresearch_ray.agents.knobs import _space  # noqa: E402
from autoresearch_ray.model import Scalar, Scope  # noqa: E402

FILE = Path(__file__).parents[1] / "examples" / "nanochat" / "train.py"
KNOBS = _constants.find(FILE.parent, Scope(can=("train.py",)))
VOCABULARY = 256
CONTEXT = 32
SMALL: dict[str, Scalar] = {"ASPECT_CPU": 16, "HEAD_CPU": 16, "ROWS_CPU": 4, "CONTEXT_CPU": CONTEXT}

Load = Callable[..., ModuleType]


class Run:
    """What the harness gives to train.py, with a text that repeats itself, and steps in place of the clock."""

    device = torch.device("cpu")
    vocabulary = VOCABULARY
    bos = 0
    context = CONTEXT
    seed = 0
    world, rank = 1, 0

    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.reported: list[float] = []
        self.averaged = 0
        self.shapes: set[tuple[int, ...]] = set()

    def warmup(self, rows: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.randint(self.vocabulary, (rows, context + 1))
        return tokens[:, :-1], tokens[:, 1:]

    def batches(self, rows: int, context: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        text = torch.tensor(list(b"to be or not to be, that is the question: ") * 20)
        chance = random.Random(0)
        for step in range(self.steps):
            starts = [chance.randrange(len(text) - context - 1) for _ in range(rows)]
            tokens = torch.stack([text[start : start + context + 1] for start in starts])
            self.shapes.add(tuple(tokens[:, :-1].shape))
            yield tokens[:, :-1], tokens[:, 1:], step / self.steps

    def average(self, model: torch.nn.Module) -> None:
        self.averaged += 1

    def report(self, loss: float) -> None:
        self.reported.append(loss)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Imports a copy of train.py in which the agent `knobs` has turned some constants, small by default."""
    loaded = []

    def load(**values: Scalar) -> ModuleType:
        name = f"nanochat_train_{len(loaded)}"
        path = tmp_path / f"{name}.py"
        path.write_bytes(FILE.read_bytes().replace(b"  # fixed", b"  #"))  # so that the fixed ones can be edited too
        constants = {each.name.rpartition(":")[2]: each for each in _constants.find(tmp_path, Scope(can=(path.name,)))}
        _constants.edit(path, [(constants[key], value) for key, value in (SMALL | values).items()])
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


def trained(module: ModuleType, steps: int = 3) -> torch.nn.Module:
    """A model whose logits depend on its tokens: an untrained one says the same about all."""
    torch.manual_seed(0)
    run = Run(steps)
    model = module.build(run)
    module.train(model, run)
    return model


def tokens_of(rows: int = 3, context: int = CONTEXT) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, context))


# --- The model -------------------------------------------------------------------------------------------------------


def test_an_untrained_model_says_that_all_tokens_are_equally_likely(load: Load) -> None:
    model = load().build(Run())
    with torch.inference_mode():
        logits = model(tokens_of())
    assert logits.shape == (3, CONTEXT, VOCABULARY) and logits.dtype == torch.float32
    assert not logits.any()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"DEPTH_CPU": 4, "WINDOWS": "SL"},
        {"GROUP": 2, "WINDOWS": "L"},
        {"VALUE_EMBEDDINGS": False, "SOFT_CAP": 0.0},
        {"TIED": True, "ACTIVATION": "swiglu"},
        {"ACTIVATION": "gelu", "CONTEXT_CPU": CONTEXT // 2},
    ],
    ids=str,
)
def test_each_token_sees_its_own_row_up_to_itself_and_nothing_else(load: Load, values: dict[str, Scalar]) -> None:
    model = trained(load(**values))
    tokens = tokens_of(4)
    cut = CONTEXT // 2
    other = tokens.clone()
    other[:, cut:] = (other[:, cut:] + 1) % VOCABULARY
    with torch.inference_mode():
        logits = model(tokens)
        changed = model(other)
        assert torch.equal(model(tokens), logits), "the same question twice"
        alone = model(tokens[1:2])
        turned = model(tokens.flip(0)).flip(0)
    assert logits.isfinite().all() and logits.std() > 0.01
    assert torch.equal(changed[:, :cut], logits[:, :cut]), "later tokens"
    assert not torch.isclose(changed[:, cut:], logits[:, cut:]).all()
    torch.testing.assert_close(alone, logits[1:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned, logits, rtol=1e-4, atol=1e-4)
    model.zero_grad()
    model.loss(tokens, other, model.masks(CONTEXT)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_model_that_was_asked_before_its_training_can_be_trained(load: Load) -> None:
    module = load(DEPTH_CPU=2, WINDOWS="SL")
    model = module.build(Run())
    with torch.inference_mode():  # a mask that is made here would be an inference tensor
        model(tokens_of())
    module.train(model, Run())


def test_the_pattern_gives_each_layer_its_window_and_the_last_one_all(load: Load) -> None:
    assert load(DEPTH_CPU=4, WINDOWS="SSSL").build(Run()).windows == [CONTEXT // 2] * 3 + [CONTEXT]
    assert load(DEPTH_CPU=3, WINDOWS="SL").build(Run()).windows == [CONTEXT // 2, CONTEXT, CONTEXT]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [1, 5, 12])
def test_every_way_to_attend_gives_what_the_definition_gives(load: Load, window: int) -> None:
    module = load()
    rows, context, heads, kv_heads, size = 2, 12, 4, 2, 8
    q = torch.randn(rows, context, heads, size)
    k, v = torch.randn(2, rows, context, kv_heads, size)
    back = torch.arange(context)[:, None] - torch.arange(context)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(2, 2)) / size**0.5
    weights = scores.masked_fill((back < 0) | (back >= window), -math.inf).softmax(-1)
    expected = torch.einsum("bhqk,bkhd->bqhd", weights, v.repeat_interleave(2, 2))
    found = module.attend(q, k, v, window, module.mask_of(window, context, torch.device("cpu")))
    torch.testing.assert_close(found, expected)
    blocks = module.create_block_mask(
        lambda b, h, i, j: (i >= j) & (i - j < window), None, None, context, context, device="cpu"
    )
    grouped = (each.transpose(1, 2) for each in (q, k, v))
    flex = module.flex_attention(*grouped, block_mask=blocks, enable_gqa=True)  # what CUDA compiles
    torch.testing.assert_close(flex.transpose(1, 2), expected)


def test_size_and_work_are_what_a_hand_counts(load: Load) -> None:
    model = load(DEPTH_CPU=2, WINDOWS="SL", MLP_RATIO=4.0).build(Run())
    width = 2 * 16
    attention, mlp, head = 4 * width * width, 2 * 4 * width * width, VOCABULARY * width
    matrices = 2 * (attention + mlp) + head
    tables = 2 * VOCABULARY * width  # the embedding, and values in the last layer
    assert sum(each.numel() for each in model.parameters()) == matrices + tables + 2 * 2
    # A token sees itself and what lies before it: 1 to 16, then 16 each; and 1 to 32.
    seen = (16 * 17 / 2 + 16 * 16) / 32 + (32 * 33 / 2) / 32
    assert model.flops_per_token == 6 * matrices + 12 * width * seen
    assert model.depth == 2


def test_the_sizes_for_cuda_and_mps_follow_from_the_dial(load: Load) -> None:
    module = load()
    cuda = module.sizes_of(torch.device("cuda"), 2048)
    assert (cuda.depth, cuda.width, cuda.heads, cuda.context) == (8, 512, 4, 2048)
    assert cuda.rows * cuda.context == 2**18 and cuda.rows % cuda.micro_rows == 0
    mps = module.sizes_of(torch.device("mps"), 128)
    assert (mps.depth, mps.width, mps.context) == (4, 256, 128), "no longer than the evaluation"
    assert load(DEPTH=9).sizes_of(torch.device("cuda"), 2048).width == 640, "whole heads"


# --- The optimiser ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (1, 16, 48)], ids=str)
def test_muon_makes_matrices_nearly_orthogonal_and_keeps_their_directions(load: Load, shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape) * 1e-3
    found = load().orthogonal(gradient)
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    singular = torch.linalg.svdvals(found)
    assert found.shape == shape
    assert ((singular > 0.8) & (singular < 1.2)).all(), singular
    assert (found - u @ vh).norm() / (u @ vh).norm() < 0.1


def test_muon_takes_a_step_of_the_stated_length_against_the_gradient(load: Load) -> None:
    module = load(WEIGHT_DECAY=0.0)
    matrices = [torch.nn.Parameter(torch.zeros(each)) for each in ((16, 16), (64, 16), (16, 16))]
    for each in matrices:
        each.grad = torch.randn_like(each)
    module.Muon(matrices).step(0.5)
    for each in matrices:
        wanted = 0.5 * max(1.0, each.size(0) / each.size(1)) ** 0.5
        assert torch.linalg.svdvals(each.detach()).mean().item() == pytest.approx(wanted, rel=0.1)
        assert (each * each.grad).sum() < 0


def test_every_parameter_belongs_to_one_optimiser_at_its_own_rate(load: Load) -> None:
    for tied in (False, True):
        module = load(TIED=tied)
        model = module.build(Run())
        optimiser = module.Optimiser(model)
        rates = {id(each): group["lr"] for group in optimiser.adamw.param_groups for each in group["params"]}
        assert rates[id(model.head.weight)] == module.HEAD_LR
        assert rates[id(model.values["1"].weight)] == module.EMBEDDING_LR
        by_muon = [id(each) for batch in optimiser.muon.batches for each in batch]
        assert sorted([*rates, *by_muon]) == sorted(id(each) for each in model.parameters())


def test_the_rates_rise_hold_and_fall_with_the_budget(load: Load) -> None:
    usual = load(WARMDOWN=0.5, WARMUP=0.0).lr_factor
    assert [usual(each) for each in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0]
    warm = load(WARMDOWN=1.0, WARMUP=0.2).lr_factor
    assert [warm(each) for each in (0.0, 0.1, 0.5, 1.0)] == [0.0, 0.5, 0.5, 0.0]
    assert [load(WARMDOWN=0.0).lr_factor(each) for each in (0.0, 1.0)] == [1.0, 1.0]


# --- Training --------------------------------------------------------------------------------------------------------


def test_warm_up_leaves_no_trace(load: Load) -> None:
    module = load()
    run = Run()
    model = module.build(run)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()
    module.warm_up(model, run)
    assert run.averaged == 3, "it did train"
    assert torch.equal(torch.get_rng_state(), state)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name
    assert all(each.grad is None for each in model.parameters())


def test_the_same_seed_gives_the_same_model(load: Load) -> None:
    one, other = (trained(load()).state_dict() for _ in range(2))
    assert all(torch.equal(each, other[name]) for name, each in one.items())


def test_micro_batches_give_the_gradient_of_the_whole_batch(load: Load) -> None:
    module = load()
    model = module.build(Run())
    torch.nn.init.normal_(model.head.weight, std=0.1)

    class Kept:
        gradients: list[list[torch.Tensor]] = []

        def step(self, factor: float) -> None:
            self.gradients.append([each.grad.clone() for each in model.parameters()])
            model.zero_grad()

    losses = []
    inputs, targets = tokens_of(5), tokens_of(5)
    for size in (5, 2):  # of 2, 2 and 1 rows
        model.sizes = model.sizes._replace(micro_rows=size)
        losses.append(module.step(model, Kept(), Run(), inputs, targets, 1.0))
    torch.testing.assert_close(*losses)
    for whole, in_parts in zip(*Kept.gradients, strict=True):
        torch.testing.assert_close(whole, in_parts, rtol=1e-4, atol=1e-6)


def test_it_learns_a_text_that_repeats_itself(load: Load) -> None:
    module = load()
    run = Run(steps=150)
    model = module.build(run)
    module.train(model, run)
    assert run.shapes == {(4, CONTEXT)}
    assert len(run.reported) == 150 // module.REPORT_STEPS
    assert run.reported[0] > 2.5 and run.reported[-1] < 0.5, run.reported


# --- The knobs -------------------------------------------------------------------------------------------------------


def test_the_knobs_are_those_that_matter_on_a_cpu() -> None:
    names = {each.name.rpartition(":")[2] for each in KNOBS}
    assert 12 <= len(names) <= 18
    assert names >= {
        "DEPTH_CPU",
        "ROWS_CPU",
        "CONTEXT_CPU",
        "ACTIVATION",
        "SOFT_CAP",
        "TIED",
        "HEAD_LR",
        "EMBEDDING_LR",
    }
    assert not names & {"DEPTH", "ROWS", "CONTEXT", "DEPTH_MPS", "REPORT_STEPS"}


def test_a_line_stays_between_the_constants_so_that_two_edits_merge() -> None:
    lines = FILE.read_text().splitlines()
    names = [i for i, line in enumerate(lines) if line.partition(" = ")[0].isupper() and " = " in line]
    assert len(names) > 20
    assert all(after - before > 1 for before, after in itertools.pairwise(names))
    assert all(lines[i - 1].startswith("# ") for i in names)


@pytest.mark.parametrize("knob", KNOBS, ids=lambda each: each.name.rpartition(":")[2])
def test_both_ends_of_every_knob_train(load: Load, knob: _constants.Constant) -> None:
    name = knob.name.rpartition(":")[2]
    space = _space(knob, knob.value)
    for value in space.choices or (space.outward(space.low), space.outward(space.high)):
        module = load(**{name: value})
        run = Run(steps=module.REPORT_STEPS)
        run.context = max(CONTEXT, module.CONTEXT_CPU)
        model = module.build(run)
        module.train(model, run)
        assert all(math.isfinite(each) for each in run.reported), (name, value)
        with torch.inference_mode():
            assert model(tokens_of(2, run.context)).isfinite().all(), (name, value)


def test_all_sizes_of_the_model_build_together(load: Load) -> None:
    for depth, aspect, head, group in itertools.product((1, 3), (16, 24, 64), (16, 64), (1, 2)):
        module = load(DEPTH_CPU=depth, ASPECT_CPU=aspect, HEAD_CPU=head, GROUP=group)
        sizes = module.sizes_of(torch.device("cpu"), CONTEXT)
        assert sizes.width >= depth * aspect
        assert sizes.width == sizes.heads * head == sizes.kv_heads * group * head
        with torch.inference_mode():
            assert module.build(Run())(tokens_of(1)).shape == (1, CONTEXT, VOCABULARY)
