"""What an idea is about, by the agent's own words: one of eight categories, and a topic such as "warmup".

An agent that names the category itself is believed: `schedule: a longer warmup`. Else a table of the field's words
decides. Pure, and the same for the same words: what was learned is not stored, but told anew from the ledger.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """Where a change digs."""

    ARCHITECTURE = "architecture"
    OPTIMISER = "optimiser"
    SCHEDULE = "schedule"
    DATA = "data"
    REGULARISATION = "regularisation"
    SYSTEMS = "systems"
    REMOVAL = "removal"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an idea is about. `topic` is the field's word for it, or the name of the constant; "" if none is known."""

    category: Category
    topic: str = ""

    def __str__(self) -> str:
        return f"{self.topic} ({self.category})" if self.topic else str(self.category)


_CHARACTERS = 300  # of an idea that are looked at
_TAG = 40  # characters within which an agent's own category ends
_TOPIC = 40  # characters of a constant's name
_WITHOUT = "without #"  # so begins what takes a change out again, before the idea of that

_ALIASES: Mapping[str, Category] = {
    "arch": Category.ARCHITECTURE,
    "model": Category.ARCHITECTURE,
    "optim": Category.OPTIMISER,
    "optimizer": Category.OPTIMISER,
    "optimization": Category.OPTIMISER,
    "scheduler": Category.SCHEDULE,
    "regularization": Category.REGULARISATION,
    "system": Category.SYSTEMS,
    "performance": Category.SYSTEMS,
    "simplification": Category.REMOVAL,
    "simplify": Category.REMOVAL,
}

# By topic the words that name it, of two words at most. The first of an idea decides: of "gradient clip in warmup" the
# clip. A plural is its singular.
_STRONG: Mapping[Category, Mapping[str, str]] = {
    Category.SCHEDULE: {
        "warmup": "warmup, warm up, lr warmup",
        "warmdown": "warmdown, cooldown, cool down, final lr, lr floor, min lr, end lr",
        "decay of the rate": (
            "cosine, linear decay, root decay, lr decay, decay lr, decay learning, rate decay, anneal, annealing, "
            "wsd, lr schedule"
        ),
        "schedule": "schedule, scheduler, scheduling, one cycle, onecycle, restart",
    },
    Category.OPTIMISER: {
        "learning rate": "lr, learning rate, rate, step size",
        "momentum": "momentum, nesterov, beta, beta1, beta2, adam beta, lion",
        "Muon": "muon, newton schulz, ns, orthogonalization, orthogonalisation, polar express",
        "optimiser": "adam, adamw, sgd, shampoo, soap, adafactor, optimizer, optimiser, second order, preconditioner",
        "epsilon": "eps, epsilon",
        "clipping": "grad clip, gradient clip, gradient clipping, clip, clipping, max norm, grad norm",
        "batch size": "batch size, batch, total batch, accumulation, accumulate, grad accum, minibatch",
        "weight averaging": "ema, swa, weight averaging, average of, averaging",
    },
    Category.REGULARISATION: {
        "weight decay": "weight decay, wd, decoupled decay, l2, cautious",
        "dropout": "dropout, drop path, droppath, layer drop, stochastic depth",
        "loss": "label smoothing, z loss, zloss, penalty, auxiliary loss, aux loss, regularization, regularisation",
        "noise": "gradient noise, weight noise, noise",
        "early stopping": "early stopping, early stop",
    },
    Category.DATA: {
        "sequence length": "sequence, sequence length, seq len, context length, block size, max seq",
        "order of the data": "shuffle, shuffling, curriculum, data order, sampling, sampler, epoch, shard",
        "mixture": "dataset, mixture, corpus, data mix, filter, filtering, dedup, augment, augmentation, crop, mixup",
        "tokenizer": "tokenizer, tokeniser, vocab, vocabulary, bpe",
        "packing": "packing, padding, document mask, bos, doc boundary",
        "features": "feature, encoding, normalise input, normalize input, one hot",
    },
    Category.SYSTEMS: {
        "compilation": "compile, torch compile, inductor, autotune, cuda graph, cudagraph, max autotune, jit",
        "precision": (
            "bf16, bfloat16, fp16, fp8, mxfp8, tf32, float32, float16, fp32, precision, autocast, int8, quantize"
        ),
        "kernels": (
            "kernel, triton, fused, fuse, flash, flash attention, flashattention, flex attention, sdpa, "
            "vectorise, vectorize"
        ),
        "memory": "checkpoint, checkpointing, activation checkpoint, offload, recompute, memory fraction, contiguous",
        "input pipeline": (
            "dataloader, data loader, prefetch, pinned, pin memory, non blocking, worker, num workers, cache"
        ),
        "overhead": (
            "gc, garbage, sync, synchronize, throughput, overhead, data parallel, thread, eval interval, eval "
            "batch, logging"
        ),
    },
    Category.ARCHITECTURE: {
        "normalisation": (
            "rmsnorm, layernorm, qk norm, qknorm, pre norm, post norm, batchnorm, norm, normalization, normalisation"
        ),
        "positions": "rope, rotary, alibi, position, positional, theta, rope base",
        "activation": (
            "relu, relu2, squared relu, gelu, silu, swiglu, geglu, swish, activation, glu, tanh, sigmoid, gate, "
            "gating, gated"
        ),
        "width": (
            "width, wider, n embd, hidden, hidden size, model dim, d model, aspect ratio, expansion, mlp ratio, "
            "channel, filters"
        ),
        "depth": "depth, deeper, shallower, n layer, num layer",
        "heads": "head dim, n head, gqa, mqa, mla, kv head, attention head, num head, query head",
        "window": "window, sliding, sssl, local attention, window pattern, long range",
        "attention": "differential attention, linear attention, softmax temperature, attention scale, qk gain, causal",
        "softcap": "softcap, soft cap, logit cap, logit softcap",
        "residuals": "residual, skip connection, unet, x0, lambda, hyper connection",
        "embeddings": (
            "value embedding, value embed, ve, tie, tied, tying, untie, weight tying, bigram, ngram, embedding dim"
        ),
        "initialisation": "init, initialization, initialisation, zero init, init scale, std",
        "mixture of experts": "moe, expert, router, routing, mixture of",
        "mixing": "conv, convolution, conv1d, mamba, ssm, deltanet, token shift, smear, recurrence, recurrent",
        "prediction": "mtp, multi token, tree, stacking, ensemble",
    },
}

# What a change is made to, as a rule: they decide only where no word above does.
_WEAK: Mapping[Category, Mapping[str, str]] = {
    Category.ARCHITECTURE: {
        "attention": "attention, attn, query, key, value",
        "MLP": "mlp, ffn, feed forward, feedforward",
        "embeddings": "embedding, embed, wte, lm head, unembedding, output head",
        "heads": "head",
        "layers": (
            "layer, block, bias, logit, projection, linear, network, net, parameter, dim, size, model, architecture"
        ),
    },
    Category.OPTIMISER: {"gradient": "gradient, grad, step, update"},
    Category.DATA: {"data": "data, token, document, input, seed"},
    Category.REGULARISATION: {"decay": "decay"},
    Category.SYSTEMS: {"speed": "faster, speed, memory, gpu, cpu, vram, eager, mode"},
}

_NAME = re.compile(r"\w+")
_REMOVES = frozenset(
    {"remove", "delete", "ablate", "strip", "disable", "simplify", "without", "drop", "cut", "omit", "eliminate"}
)
_ARTICLES = frozenset({"a", "an", "the"})
# "Drop the rate to 0.1" takes nothing out, and neither does "drop path 0.1".
_TURNS_DOWN = frozenset({"to", "by", "from", "in", "half", "halve", "every", "rate", "path", "clip"})


def subject(idea: str, params: Iterable[str] = ()) -> Subject:
    """What `idea` is about; `params` are names of constants that were changed, for an idea that says nothing else."""
    return _subject(idea[:_CHARACTERS], tuple(params)[:3])


def untagged(idea: str) -> str:
    """The idea without the category that the agent put before it."""
    return _split(idea)[1]


@functools.lru_cache(maxsize=4096)  # of one idea the category is asked for several times
def _subject(idea: str, params: tuple[str, ...]) -> Subject:
    said, rest = _split(idea)
    if rest.startswith(_WITHOUT):
        return Subject(Category.REMOVAL, _subject(rest.partition(": ")[2], ()).topic)
    names = _NAME.findall(rest)  # words, and constants as they are written
    words = _words(names)
    category, topic = _found(words)
    if not topic and params:
        category, topic = _found(_words(params))
    topic = topic or next((each.lower()[:_TOPIC] for each in (*names, *params) if _is_constant(each)), "")
    if said is None and words and words[0] in _REMOVES and not _turned_down(words):
        said = Category.REMOVAL
    return Subject(category if said is None else said, topic)


def _split(idea: str) -> tuple[Category | None, str]:
    """The category that the agent names, as in "data: ..." or "[data] ...", and the rest of the idea."""
    text = idea.strip()
    bracket = text.startswith("[")
    tag, mark, rest = text[bracket:].partition("]" if bracket else ":")
    named = tag[:_TAG].replace("/", " ").replace(",", " ").lower().split()
    category = _named(named[0]) if mark and len(tag) <= _TAG and 0 < len(named) < 4 else None
    return (category, rest.lstrip(" :-") or text) if category else (None, text)


def _named(word: str) -> Category | None:
    return _ALIASES.get(word) or next((each for each in Category if each == word), None)


def _words(names: Iterable[str]) -> list[str]:
    return [each for each in " ".join(names).replace("_", " ").lower().split() if each not in _ARTICLES]


def _is_constant(name: str) -> bool:
    return len(name) > 2 and ("_" in name.strip("_") or (name.isupper() and not name.isdigit()))


def _turned_down(words: list[str]) -> bool:
    return any(each in _TURNS_DOWN or each[0].isdigit() for each in words[1:8])


def _found(words: list[str]) -> tuple[Category, str]:
    """The first strong entry of the table among `words`, else the first weak one. Two words count before one."""
    table, weak = _table(), None
    for one, two in zip(words, [*words[1:], ""], strict=False):
        found = table.get(f"{one} {_singular(two)}") or table.get(one) or table.get(_singular(one))
        if found and found[1]:
            return found[0]
        weak = weak or found
    return weak[0] if weak else (Category.OTHER, "")


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word


@functools.cache
def _table() -> Mapping[str, tuple[tuple[Category, str], bool]]:
    """By word the category and the topic, and whether it is a strong one."""
    return {
        word: ((category, topic), table is _STRONG)
        for table in (_WEAK, _STRONG)
        for category, topics in table.items()
        for topic, words in topics.items()
        for word in words.split(", ")
    }
