"""What an agent remembers from one proposal to the next: a small file of JSON, there whole or as it was before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def remember(path: Path, value: Any) -> None:
    """Replace what `path` holds. A kill in the middle of it leaves the old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def recall(path: Path, otherwise: Any) -> Any:
    """What was remembered, or `otherwise` if nothing was yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise
