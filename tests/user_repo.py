"""A user's git repository, made with the plain git of this machine, as a user would."""

import subprocess
from pathlib import Path


class UserRepo:
    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """The output of git, with a user's name set."""
        settings = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "protocol.file.allow=always")
        argv = ["git", *settings, *arguments]
        done = subprocess.run(argv, cwd=cwd or self.folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def write(self, name: str, content: str | bytes = "x\n") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def commit(self, message: str = "change", **files: str) -> str:
        """Commit everything there is, `files` as well (a double underscore stands for a dot); return its name."""
        for name, content in files.items():
            self.write(name.replace("__", "."), content)
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()
