"""A small GPT and how it is trained, on torch alone: this file is the agent's to change.

The harness calls `build`, then `train`; it owns the data, the clock and the metric. Each constant has a line of its
own above it: git merges edits of two lanes only where a line between them stayed.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

try:
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None

# --- Sizes, for each kind of device: DEPTH is the dial, the others suit any depth near it ---
# Layers.
DEPTH = 8  # fixed: CUDA
# Width of the model for each layer; the width is rounded up to whole heads.
ASPECT = 64  # fixed: CUDA and MPS
# Width of one attention head.
HEAD = 128  # fixed: CUDA and MPS
# Rows of one step: 2**18 tokens.
ROWS = 128  # fixed: CUDA
# Rows that go through the model at once; the gradients of a step are summed over them.
MICRO_ROWS = 32  # fixed: CUDA
# Tokens of a row in training.
CONTEXT = 2048  # fixed: CUDA
# Layers on Apple's MPS.
DEPTH_MPS = 4  # fixed: MPS
# Rows of one step there.
ROWS_MPS = 16  # fixed: MPS
# Tokens of a row there.
CONTEXT_MPS = 512  # fixed: MPS
# Layers on a CPU.
DEPTH_CPU = 2  # 1..4
# Width for each layer there.
ASPECT_CPU = 32  # 16 | 24 | 32 | 48 | 64
# Width of one attention head there.
HEAD_CPU = 32  # 16 | 32 | 64
# Rows of one step there.
ROWS_CPU = 16  # 4..64 log
# Tokens of a row there.
CONTEXT_CPU = 128  # 32 | 64 | 96 | 128

# --- Model ---
# Query heads that share one head of keys and values (grouped-query attention).
GROUP = 1  # fixed: it saves memory, of which a small model needs little
# The windows of the layers, repeated: S sees half the context, L all. The last layer is always L.
WINDOWS = "SSSL"  # L | SL | SSSL
# The MLP's non-linearity.
ACTIVATION = "relu2"  # relu2 | gelu | swiglu
# Width of the MLP, as a multiple of the model's.
MLP_RATIO = 4.0  # 1.5..6
# A second embedding, mixed into the values of every other layer.
VALUE_EMBEDDINGS = True
# One matrix as embedding and head.
TIED = False
# Logits are kept within plus and minus this; 0 leaves them free.
SOFT_CAP = 15.0  # 0 | 15 | 30

# --- Optimiser ---
# Learning rate of Muon, for the matrices.
MATRIX_LR = 0.02  # 2e-3..1e-1 log
# Learning rate of AdamW for the embeddings.
EMBEDDING_LR = 0.2  # 1e-2..1 log
# Learning rate of AdamW for the head.
HEAD_LR = 0.004  # 5e-4..1e-1 log
# Learning rate of AdamW for the scalars of the residual stream.
SCALAR_LR = 0.01  # fixed
# Pull of the matrices towards zero, times the learning rate.
WEIGHT_DECAY = 0.1  # 0..1
# Muon's memory of the gradient.
MOMENTUM = 0.95  # 0.8..0.99
# AdamW's memory of its square.
BETA2 = 0.95  # 0.9..0.999
# Part of the budget in which the learning rates rise from zero.
WARMUP = 0.0  # fixed: Muon needs none
# Part of the budget in which they fall, at its end.
WARMDOWN = 0.5  # 0..1
# Steps between two points of the learning curve: reading a loss makes the CPU wait for the GPU.
REPORT_STEPS = 10  # fixed


class Sizes(NamedTuple):
    """What depends on the device, width and heads worked out."""

    depth: int
    width: int
    head: int
    heads: int
    kv_heads: int
    rows: int
    micro_rows: int
    context: int


def sizes_of(device: torch.device, longest_context: int) -> Sizes:
    """The sizes for a device. The width is a multiple of the heads of one group, so that every dial position builds."""
    depth, aspect, head, rows, micro_rows, context = {
        "cuda": (DEPTH, ASPECT, HEAD, ROWS, MICRO_ROWS, CONTEXT),
        "mps": (DEPTH_MPS, ASPECT, HEAD, ROWS_MPS, ROWS_MPS, CONTEXT_MPS),
        "cpu": (DEPTH_CPU, ASPECT_CPU, HEAD_CPU, ROWS_CPU, ROWS_CPU, CONTEXT_CPU),
    }[device.type]
    groups = -(-depth * aspect // (head * GROUP))
    heads = groups * GROUP
    return Sizes(depth, heads * head, head, heads, groups, rows, micro_rows, min(context, longest_context))


# --- Attention -------------------------------------------------------------------------------------------------------

Mask = BlockMask | Tensor | None


@functools.lru_cache
@torch.inference_mode(False)  # or a mask that the evaluation asked for first could not be trained with
def mask_of(window: int, context: int, device: torch.device) -> Mask:
    """What `attend` needs beside the window: blocks for FlexAttention, a band for others, nothing where all is seen."""
    if window >= context or (device.type == "cuda" and flash_attn_func):
        return None
    if device.type == "cuda":
        return create_block_mask(lambda b, h, q, k: (q >= k) & (q - k < window), None, None, context, context, device)
    back = torch.arange(context, device=device)[:, None] - torch.arange(context, device=device)
    return (back >= 0) & (back < window)


@functools.cache
def compiled(function: Callable[..., Tensor], device_type: str) -> Callable[..., Tensor]:
    """The function, compiled for its exact shapes on CUDA, and as it is elsewhere."""
    return torch.compile(function, dynamic=False) if device_type == "cuda" else function


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, mask: Mask) -> Tensor:
    """Causal attention, [rows, tokens, heads, head] each, in which a token sees `window` tokens, itself among them."""
    if q.is_cuda and flash_attn_func:
        return flash_attn_func(q, k, v, causal=True, window_size=(window - 1, 0))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.size(1) != k.size(1)
    if isinstance(mask, BlockMask):
        flex = flex_attention if torch.compiler.is_compiling() else compiled(flex_attention, q.device.type)
        y = flex(q, k, v, block_mask=mask, enable_gqa=grouped)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return y.transpose(1, 2)


# --- Model -----------------------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) without weights."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of numbers by angles that grow with the position (Su et al. 2021). x: [rows, tokens, heads, head]."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


class Linear(nn.Module):
    """A matrix without bias: kept in float32, used in the number format of its input."""

    def __init__(self, inputs: int, outputs: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs) if zero else torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Attention over `window` tokens, with normed queries and keys (Henry et al. 2020)."""

    def __init__(self, sizes: Sizes, window: int) -> None:
        super().__init__()
        self.head, self.window = sizes.head, window
        self.query = Linear(sizes.width, sizes.heads * sizes.head)
        self.key = Linear(sizes.width, sizes.kv_heads * sizes.head)
        self.value = Linear(sizes.width, sizes.kv_heads * sizes.head)
        self.out = Linear(sizes.heads * sizes.head, sizes.width, zero=True)

    def forward(self, x: Tensor, value: Tensor | None, rotary: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        q, k, v = (matrix(x).unflatten(-1, (-1, self.head)) for matrix in (self.query, self.key, self.value))
        if value is not None:
            v = v + value.view_as(v)
        q, k = norm(rotate(q, *rotary)), norm(rotate(k, *rotary))
        return self.out(attend(q, k, v, self.window, mask).flatten(-2))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        gates = int(ACTIVATION == "swiglu")  # with gates, two thirds of the width cost the same
        hidden = 16 * round(MLP_RATIO * width * 2 / (2 + gates) / 16)
        self.up = Linear(width, hidden * (1 + gates))
        self.down = Linear(hidden, width, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if ACTIVATION == "swiglu":
            gate, x = x.chunk(2, -1)
            return self.down(F.silu(gate) * x)
        return self.down(F.relu(x).square() if ACTIVATION == "relu2" else F.gelu(x))


class GPT(nn.Module):
    """A decoder: tokens, int64 [rows, tokens] -> logits [rows, tokens, vocabulary]."""

    def __init__(self, sizes: Sizes, vocabulary: int, longest_context: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.sizes, self.depth, self.dtype = sizes, sizes.depth, dtype
        pattern = [WINDOWS[i % len(WINDOWS)] for i in range(sizes.depth - 1)] + ["L"]
        self.windows = [longest_context if each == "L" else sizes.context // 2 for each in pattern]

        # Matrices stay float32, to add up small steps; tables, of which a token reads one row, are of the dtype.
        self.embedding = nn.Embedding(vocabulary, sizes.width, dtype=torch.float32 if TIED else dtype)
        self.attentions = nn.ModuleList(Attention(sizes, window) for window in self.windows)
        self.mlps = nn.ModuleList(MLP(sizes.width) for _ in self.windows)
        self.head = Linear(sizes.width, vocabulary, zero=True)
        if TIED:
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.head.weight = self.embedding.weight
        size = sizes.kv_heads * sizes.head
        some = range(sizes.depth - 1, -1, -2) if VALUE_EMBEDDINGS else ()
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocabulary, size, dtype=dtype) for i in some})
        # What each layer reads: the stream, and the embedding added anew.
        self.mix = nn.Parameter(torch.tensor([[1.0, 0.1]] * sizes.depth))

        speeds = 10_000.0 ** -(torch.arange(sizes.head // 2) / (sizes.head // 2))
        angles = torch.outer(torch.arange(longest_context), speeds)[:, None]
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1).to(dtype), persistent=False)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), -1).to(dtype), persistent=False)

    @property
    def tables(self) -> list[nn.Parameter]:
        """What is looked up by token; a table that is the head too counts as the head."""
        return [*self.values.parameters(), *([] if TIED else self.embedding.parameters())]

    @property
    def matrices(self) -> list[nn.Parameter]:
        """The parameters of attention and MLP, all of two dimensions."""
        return [*self.attentions.parameters(), *self.mlps.parameters()]

    @property
    def flops_per_token(self) -> int:
        """Of a training step, after appendix B of PaLM (Chowdhery et al. 2022): 6 for each number of a matrix, 12 for
        each number of a query and each token that it sees. Masked tokens, embeddings and what is computed twice: none.
        """
        seen = sum(min(i + 1, window) for window in self.windows for i in range(self.sizes.context))
        matrices = sum(each.numel() for each in [*self.matrices, self.head.weight])
        return round(6 * matrices + 12 * self.sizes.heads * self.sizes.head * seen / self.sizes.context)

    def masks(self, context: int) -> list[Mask]:
        """What `attend` needs for rows of this length, layer by layer; made outside of what is compiled."""
        return [mask_of(window, context, self.cos.device) for window in self.windows]

    def logits(self, tokens: Tensor, masks: list[Mask]) -> Tensor:
        rotary = self.cos[: tokens.size(1)], self.sin[: tokens.size(1)]
        x = first = norm(self.embedding(tokens).to(self.dtype))
        for i, (stream, embedded) in enumerate(self.mix.to(self.dtype)):
            x = stream * x + embedded * first
            value = self.values[str(i)](tokens) if str(i) in self.values else None
            x = x + self.attentions[i](norm(x), value, rotary, masks[i])
            x = x + self.mlps[i](norm(x))
        logits = self.head(norm(x)).float()
        return SOFT_CAP * torch.tanh(logits / SOFT_CAP) if SOFT_CAP else logits

    def loss(self, inputs: Tensor, targets: Tensor, masks: list[Mask]) -> Tensor:
        """The mean nats per token, in float32."""
        return F.cross_entropy(self.logits(inputs, masks).flatten(0, 1), targets.flatten())

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(tokens, self.masks(tokens.size(1))).to(self.dtype)


def build(run: Any) -> GPT:
    """The untrained model, on the device of the run."""
    torch.set_float32_matmul_precision("high")  # TF32, for the few products that are not bfloat16
    dtype = torch.bfloat16 if run.device.type == "cuda" else torch.float32  # on a CPU it was no faster
    return GPT(sizes_of(run.device, run.context), run.vocabulary, run.context, dtype).to(run.device)


# --- Optimiser -------------------------------------------------------------------------------------------------------

# Five steps towards the polar factor, each of them the best for the singular values that the one before it leaves
# (Polar Express: Amsel et al. 2025), made a little safer for rounding.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrix of each, [n, outputs, inputs], up to a few percent in the singular values."""
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    x = x.bfloat16() if x.is_cuda else x
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Momentum, made orthogonal (Jordan et al. 2024, with Nesterov). All matrices of one shape are one batch."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        shapes = sorted({each.shape for each in matrices})
        self.batches = [[each for each in matrices if each.shape == shape] for shape in shapes]
        self.momenta = [torch.zeros_like(torch.stack(batch)) for batch in self.batches]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for batch, momentum in zip(self.batches, self.momenta, strict=True):
            gradient = torch.stack([each.grad for each in batch])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = compiled(orthogonal, gradient.device.type)(gradient.lerp_(momentum, MOMENTUM)).to(gradient.dtype)
            outputs, inputs = update.shape[1:]
            for parameter, change in zip(batch, update, strict=True):
                parameter.mul_(1 - rate * WEIGHT_DECAY)
                parameter.add_(change, alpha=-rate * max(1.0, outputs / inputs) ** 0.5)


class Optimiser:
    """Muon for the matrices, AdamW for all else."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.muon = Muon(model.matrices)
        rates = ((EMBEDDING_LR, model.tables), (HEAD_LR, [model.head.weight]), (SCALAR_LR, [model.mix]))
        groups = [{"params": parameters, "lr": rate, "rate": rate} for rate, parameters in rates if parameters]
        self.adamw = torch.optim.AdamW(groups, betas=(0.8, BETA2), eps=1e-10, weight_decay=0.0, fused=True)

    def step(self, factor: float) -> None:
        """Take a step with every learning rate times `factor`, and clear the gradients."""
        for group in self.adamw.param_groups:
            group["lr"] = group["rate"] * factor
        self.adamw.step()
        self.muon.step(MATRIX_LR * factor)
        self.model.zero_grad()


def lr_factor(progress: float) -> float:
    """What the learning rates are multiplied by when this part of the budget is spent."""
    up = progress / WARMUP if progress < WARMUP else 1.0
    down = (1 - progress) / WARMDOWN if progress > 1 - WARMDOWN else 1.0
    return min(up, down)


# --- Training --------------------------------------------------------------------------------------------------------


def step(model: GPT, optimiser: Optimiser, run: Any, inputs: Tensor, targets: Tensor, factor: float) -> Tensor:
    """Learn from one batch. Returns the mean loss before it, in nats per token, still on the device."""
    loss_of, masks = compiled(model.loss, inputs.device.type), model.masks(inputs.size(1))
    total, size = torch.zeros((), device=inputs.device), model.sizes.micro_rows
    for some_inputs, some_targets in zip(inputs.split(size), targets.split(size), strict=True):
        loss = loss_of(some_inputs, some_targets, masks) * (len(some_inputs) / len(inputs))
        loss.backward()
        total += loss.detach()
    run.average(model)
    optimiser.step(factor)
    return total


def warm_up(model: GPT, run: Any) -> None:
    """Take steps on random tokens, so that all is compiled when the clock starts, and undo what they did to `model`."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
        optimiser = Optimiser(model)
        for _ in range(3):
            step(model, optimiser, run, *run.warmup(model.sizes.rows, model.sizes.context), factor=1.0)
    model.load_state_dict(before)


def train(model: GPT, run: Any) -> None:
    """Train `model` in place on the batches of the run until they end."""
    warm_up(model, run)
    optimiser = Optimiser(model)
    gc.collect()
    gc.freeze()  # what lives now stays: the collector need not look at it during training
    losses = []
    for inputs, targets, progress in run.batches(model.sizes.rows, model.sizes.context):
        losses.append(step(model, optimiser, run, inputs, targets, lr_factor(progress)))
        if len(losses) == REPORT_STEPS:
            run.report(torch.stack(losses).mean().item())
            losses.clear()
