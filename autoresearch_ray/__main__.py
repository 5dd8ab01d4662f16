"""`python -m autoresearch_ray` is the command `autoresearch-ray`."""

from autoresearch_ray.cli import main

if __name__ == "__main__":
    main(prog_name="autoresearch-ray")
