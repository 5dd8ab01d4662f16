"""A neural language model over the last bytes (Bengio et al. 2003) in plain numpy: this file is the agent's to change.

Each of the last CONTEXT bytes is looked up in an embedding; one hidden layer reads them side by side; a linear layer
gives the logits of the next byte. Adam, with a schedule that follows the spent part of the time budget.

Each constant has a line of its own above it: git merges edits of two lanes only where a line between them stayed.
"""

from __future__ import annotations

import math

import numpy as np

# Bytes the model looks back.
CONTEXT = 4  # 1..32
# Numbers that stand for one byte.
EMBEDDING = 16  # 4..64
# Width of the hidden layer.
HIDDEN = 64  # 16..512 log
# The hidden layer's non-linearity.
ACTIVATION = "tanh"  # relu | tanh | gelu
# A table of logits that the last byte decides alone, added to the rest.
BIGRAM = False
# First weights, as a multiple of 1 / sqrt(inputs).
INIT_SCALE = 0.5  # 0.1..2 log
# Rows per step.
BATCH = 256  # 32..1024 log
# Learning rate of Adam.
LR = 5e-4  # 1e-4..3e-2 log
# Times the learning rate, for the tables that are looked up by byte.
EMBEDDING_LR_FACTOR = 1.0  # 0.25..16 log
# How the learning rate falls while the budget is spent.
SCHEDULE = "constant"  # constant | linear | cosine
# Adam's memory of the gradient.
BETA1 = 0.9  # 0.5..0.98
# Adam's memory of its square.
BETA2 = 0.999  # 0.9..0.9999
# Pull of all weights towards zero, times the learning rate.
WEIGHT_DECAY = 0.01  # 0..0.1


# --- Model -----------------------------------------------------------------------------------------------------------


def activate(x):
    """The hidden layer's non-linearity: its value and its derivative."""
    if ACTIVATION == "relu":
        return np.maximum(x, 0), (x > 0).astype(x.dtype)
    if ACTIVATION == "tanh":
        y = np.tanh(x)
        return y, 1 - y * y
    gate = 1 / (1 + np.exp(-1.702 * x))  # GELU by its sigmoid approximation
    return x * gate, gate + 1.702 * x * gate * (1 - gate)


class Model:
    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.context = CONTEXT
        self.weights = {
            "embedding": rng.normal(0, 1, (256, EMBEDDING)),
            "hidden": rng.normal(0, INIT_SCALE / math.sqrt(CONTEXT * EMBEDDING), (CONTEXT * EMBEDDING, HIDDEN)),
            "hidden_bias": np.zeros(HIDDEN),
            "output": rng.normal(0, INIT_SCALE / math.sqrt(HIDDEN), (HIDDEN, 256)),
            "output_bias": np.zeros(256),
        }
        if BIGRAM:  # logits that only the last byte decides
            self.weights["bigram"] = np.zeros((256, 256))
        self.weights = {name: array.astype(np.float32) for name, array in self.weights.items()}

    @property
    def num_params(self):
        return sum(array.size for array in self.weights.values())

    def forward(self, contexts):
        w = self.weights
        inputs = w["embedding"][contexts].reshape(len(contexts), -1)
        hidden, slope = activate(inputs @ w["hidden"] + w["hidden_bias"])
        logits = hidden @ w["output"] + w["output_bias"]
        if BIGRAM:
            logits += w["bigram"][contexts[:, -1]]
        return inputs, hidden, slope, logits

    def logits(self, contexts):
        return self.forward(contexts)[-1]

    def gradients(self, contexts, targets):
        """The mean loss of the batch in nats, and its derivative by each weight."""
        w = self.weights
        inputs, hidden, slope, logits = self.forward(contexts)
        rows = np.arange(len(targets))
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        chances /= chances.sum(axis=1, keepdims=True)
        loss = -np.log(chances[rows, targets] + 1e-30).mean()

        d_logits = chances
        d_logits[rows, targets] -= 1
        d_logits /= len(targets)
        d_hidden = (d_logits @ w["output"].T) * slope
        d_inputs = (d_hidden @ w["hidden"].T).reshape(-1, EMBEDDING)
        gradients = {
            "embedding": sum_by_byte(contexts.ravel(), d_inputs),
            "hidden": inputs.T @ d_hidden,
            "hidden_bias": d_hidden.sum(axis=0),
            "output": hidden.T @ d_logits,
            "output_bias": d_logits.sum(axis=0),
        }
        if BIGRAM:
            gradients["bigram"] = sum_by_byte(contexts[:, -1], d_logits)
        return loss, gradients


def sum_by_byte(which, rows):
    """For each byte, the sum of the rows that belong to it: [n], [n, width] -> [256, width]."""
    order = np.argsort(which, kind="stable")
    present, starts = np.unique(which[order], return_index=True)
    total = np.zeros((256, rows.shape[1]), rows.dtype)
    total[present] = np.add.reduceat(rows[order], starts)
    return total


# --- Training --------------------------------------------------------------------------------------------------------


class Adam:
    def __init__(self, weights):
        self.weights = weights
        self.mean = {name: np.zeros_like(array) for name, array in weights.items()}
        self.square = {name: np.zeros_like(array) for name, array in weights.items()}
        self.steps = 0

    def step(self, gradients, scale):
        """One update, with every learning rate multiplied by `scale`."""
        self.steps += 1
        unbias = math.sqrt(1 - BETA2**self.steps) / (1 - BETA1**self.steps)
        for name, gradient in gradients.items():
            mean, square = self.mean[name], self.square[name]
            mean += (1 - BETA1) * (gradient - mean)
            square += (1 - BETA2) * (gradient * gradient - square)
            rate = LR * scale * (EMBEDDING_LR_FACTOR if name in ("embedding", "bigram") else 1.0)
            weight = self.weights[name]
            weight *= 1 - rate * WEIGHT_DECAY
            weight -= rate * unbias * mean / (np.sqrt(square) + 1e-8)


def schedule(progress):
    """What the learning rates are multiplied by when this part of the budget is spent."""
    if SCHEDULE == "linear":
        return 1 - progress
    if SCHEDULE == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * progress)
    return 1.0


def train(feed, seed):
    """Train on what `feed` gives until it ends, and return the model."""
    model = Model(seed)
    adam = Adam(model.weights)
    smooth = None
    printed = 0.0
    for step, (contexts, targets, progress) in enumerate(feed.batches(rows=BATCH, context=CONTEXT)):
        loss, gradients = model.gradients(contexts, targets)
        if not math.isfinite(loss):
            raise SystemExit(f"FAIL: the loss is {loss} after {step} steps")
        adam.step(gradients, schedule(progress))
        smooth = loss if smooth is None else smooth + 0.02 * (loss - smooth)
        if progress >= printed:
            print(f"step {step}  train_bpb {smooth / math.log(2):.3f}")
            printed += 0.2
    return model
