"""Starts one peer, in its own environment, with as many evaluations at once as there are slots; it runs until killed.

    python drive.py openevolve|shinka|shinka-adaptive SLOTS PORT FOLDER

Both are configured as their own documentation says, without a second thought: what a user gets.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROGRAM = "# EVOLVE-BLOCK-START\nX = 0\n# EVOLVE-BLOCK-END\n"
EVALUATE = str(Path(__file__).with_name("evaluate.py"))
FOREVER = 100_000


def openevolve(slots: int, url: str, folder: Path) -> None:
    from openevolve import run_evolution  # type: ignore[import-not-found]
    from openevolve.config import Config, LLMModelConfig  # type: ignore[import-not-found]

    config = Config(max_iterations=FOREVER, diff_based_evolution=False, log_level="WARNING")
    config.llm.api_base = url
    config.llm.models = [LLMModelConfig(name="stub", api_base=url, api_key="none", timeout=600, retries=0)]
    config.evaluator.parallel_evaluations = slots
    config.evaluator.cascade_evaluation = False
    run_evolution(PROGRAM, EVALUATE, config=config, output_dir=str(folder / "out"), cleanup=False)


def shinka(slots: int, url: str, folder: Path, adaptive: bool) -> None:
    os.cpu_count = lambda: 64  # it starts no more jobs than there are cores, however little they compute
    from shinka.core import EvolutionConfig, ShinkaEvolveRunner  # type: ignore[import-not-found]
    from shinka.database import DatabaseConfig  # type: ignore[import-not-found]
    from shinka.launch import LocalJobConfig  # type: ignore[import-not-found]

    (folder / "initial.py").write_text(PROGRAM)
    runner = ShinkaEvolveRunner(
        evo_config=EvolutionConfig(
            num_generations=FOREVER,
            patch_types=["full"],
            patch_type_probs=[1.0],
            llm_models=[f"local/stub@{url}"],
            embedding_model=None,
            meta_rec_interval=None,
            init_program_path=str(folder / "initial.py"),
            results_dir=str(folder / "out"),
            enable_controlled_oversubscription=adaptive,
        ),
        job_config=LocalJobConfig(eval_program_path=EVALUATE),
        db_config=DatabaseConfig(),
        max_evaluation_jobs=slots,
        max_proposal_jobs=2 * slots if adaptive else slots,
        verbose=False,
    )
    runner.run()


if __name__ == "__main__":
    name, count, port, place = sys.argv[1:]
    address = f"http://127.0.0.1:{port}/v1"
    if name == "openevolve":
        openevolve(int(count), address, Path(place))
    else:
        shinka(int(count), address, Path(place), name == "shinka-adaptive")
