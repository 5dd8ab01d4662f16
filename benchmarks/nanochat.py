"""The nanochat example by itself: how far two measurements of the same code differ, and how well it uses a GPU.

    python -m benchmarks.nanochat noise         same seed, other seeds, two at once: about ten minutes on a CPU
    python -m benchmarks.nanochat gpu           one full run on the GPU with NVML beside it, and how long starting takes

Both need `pip install "autoresearch-ray[nanochat]"`; neither needs Ray.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from autoresearch_ray.monitors.nvml import Nvml

EXAMPLE = Path(__file__).parents[1] / "examples" / "nanochat"
TARGET_MFU_PERCENT = 40.0
TARGET_OUTSIDE_SECONDS = 30.0


def measure(seed: int, arguments: Sequence[str] = (), **environ: str) -> dict[str, str]:
    """The summary of one `python harness.py`. Raises `click.ClickException` with the end of its log."""
    done = subprocess.run(
        [sys.executable, "harness.py", *arguments],
        cwd=EXAMPLE,
        env=os.environ | {"AUTORESEARCH_SEED": str(seed)} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise click.ClickException(f"harness.py ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return dict(re.findall(r"^(\w+): (.+)$", done.stdout.rpartition("\n---\n")[2], re.M))


def prepare(corpus: str) -> None:
    done = subprocess.run([sys.executable, "prepare.py", corpus], cwd=EXAMPLE)
    if done.returncode:
        raise click.ClickException("prepare.py failed")


@click.group(help=__doc__.splitlines()[0])
def main() -> None:
    pass


@main.command()
@click.option("--seeds", default=8, show_default=True, help="Of each row of the table but the first.")
@click.option("--seconds", default=20.0, show_default=True, help="The budget of a run.")
def noise(seeds: int, seconds: float) -> None:
    """How far measurements of the same code differ."""
    prepare("stdlib")
    budget = {"AUTORESEARCH_BUDGET_SECONDS": str(seconds)}
    print("| runs | val_bpb, mean | standard deviation | steps | seconds in all, mean |")
    print("|---|---|---|---|---|")
    cases = {
        "the same seed, one at a time": ([0] * (seeds // 2), 1, "cpu"),
        "other seeds, one at a time": (range(seeds), 1, "cpu"),
        "other seeds, two at once": (range(seeds), 2, "cpu"),
        "other seeds, two at once, by the wall": (range(seeds), 2, "wall"),
    }
    for name, (numbers, at_once, clock) in cases.items():
        with ThreadPoolExecutor(at_once) as pool:
            arguments = ["--device", "cpu", "--clock", clock]
            found = list(pool.map(lambda seed, given=arguments: measure(seed, given, **budget), numbers))
        values = [float(each["val_bpb"]) for each in found]
        steps = [int(each["num_steps"]) for each in found]
        total = statistics.mean(float(each["total_seconds"]) for each in found)
        print(
            f"| {name} ({len(values)}) | {statistics.mean(values):.4f} | {statistics.stdev(values):.4f} "
            f"| {min(steps):,}–{max(steps):,} | {total:.1f} |",
            flush=True,
        )


@main.command()
@click.option("--corpus", default="packages", show_default=True, help="climbmix where there is a network.")
@click.option("--seconds", default=300.0, show_default=True, help="The budget of the run.")
@click.option("--gpu", default="0", show_default=True)
def gpu(corpus: str, seconds: float, gpu: str) -> None:
    """One full run on a GPU, twice: with an empty compile cache, and with a warm one."""
    prepare(corpus)
    with tempfile.TemporaryDirectory(prefix="nanochat-") as caches:
        full_run(corpus, gpu, caches, min(seconds, 30.0), "cold")
        mfu, outside = full_run(corpus, gpu, caches, seconds, "warm")
    known = mfu != "n/a"  # the peak of this GPU
    met = outside <= TARGET_OUTSIDE_SECONDS and (not known or float(mfu) >= TARGET_MFU_PERCENT)
    targets = f"MFU {TARGET_MFU_PERCENT:g} %, {TARGET_OUTSIDE_SECONDS:g} s outside the budget"
    print(f"\ntargets: {targets}: {'ok' if met else 'MISSED'}")
    sys.exit(0 if met else 1)


def full_run(corpus: str, gpu: str, caches: str, seconds: float, cache: str) -> tuple[str, float]:
    """Train once and print what came of it. Returns the MFU, and the seconds outside the budget."""
    with Nvml((gpu,)).watch() as watch:
        watch.follow(os.getpid())
        began = time.monotonic()
        found = measure(
            0,
            ["--corpus", corpus, "--device", "cuda"],
            CUDA_VISIBLE_DEVICES=gpu,
            AUTORESEARCH_BUDGET_SECONDS=str(seconds),
            TORCHINDUCTOR_CACHE_DIR=f"{caches}/inductor",
            TRITON_CACHE_DIR=f"{caches}/triton",
        )
        outside = time.monotonic() - began - float(found["training_seconds"])
    seen = watch.resources
    rate = float(found["total_tokens_M"]) / float(found["training_seconds"])
    energy = "n/a" if seen.energy_joules is None else f"{seen.energy_joules / 3600:.1f} Wh"
    print(f"\n{found['device']}, driver {seen.driver}, compile cache {cache}")
    for name, value in {
        **found,
        "tokens per second": f"{rate:.2f} M",
        "seconds outside the budget": f"{outside:.1f}",
        "peak MB as NVML says": seen.peak_mb,
        "energy": energy,
        "mean utilisation, percent": seen.utilisation_percent,
    }.items():
        print(f"| {name} | {value} |", flush=True)
    return found["mfu_percent"], outside


if __name__ == "__main__":
    main()
