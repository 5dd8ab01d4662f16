"""The caches of compilers: warm for every evaluation of a node, and carrying nothing from one experiment to another.

What the base leaves in them when it first runs on a node is kept, and never written to again. Every evaluation gets a
copy of its own, which is thrown away with it. So an evaluation that compiles what the base compiled finds it there, and
what another experiment compiled, or planted, it never sees. The price is the copy (as fast as the disk, and next to
nothing where files can be cloned), and one more run of the base on each slot where there is anything to keep: a run on
cold caches is not compared with runs on warm ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.bare import environ

_FOLDERS = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "NUMBA_CACHE_DIR": "numba",
    "JAX_COMPILATION_CACHE_DIR": "jax",
}
_COPY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches of one node, below `folder`. Safe to use from several workers."""

    folder: Path

    @property
    def known(self) -> bool:
        """Whether the base has run here, and so what there is to keep is kept."""
        return (self.folder / "kept").is_dir()

    def copy(self, target: Path) -> dict[str, str]:
        """Make `target` a copy of what is kept here, which may be nothing: the variables that point into it.

        Raises `OSError`.
        """
        trees.empty(target)
        if self.known:
            command = ("cp", "-a", "--reflink=auto", "--", f"{self.folder / 'kept'}/.", str(target))
            done = process.call(command, environ=environ(), timeout_seconds=_COPY_SECONDS)
            if done.code != 0:
                raise OSError(f"cannot copy the caches to {target}: {done.err.strip()}")
        for folder in _FOLDERS.values():
            (target / folder).mkdir(exist_ok=True)
        return {name: str(target / folder) for name, folder in _FOLDERS.items()}

    def keep(self, left: Path) -> None:
        """Keep what the base left in its copy, unless another slot was first. Raises `OSError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            left.rename(self.folder / "kept")
        except OSError:
            if not self.known:  # neither another slot was first, nor can it be kept
                raise
