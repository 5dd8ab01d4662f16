"""A run over a Ray of several nodes while a demon breaks one thing after another: `python -m benchmarks.chaos`."""
