"""The process that runs train.py, in the harness's hands: what train.py is given, and what it may not read. Frozen."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import random
import re
import signal
import socket
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from data import data_folder

HERE = Path(__file__).resolve().parent


class NoDeviceError(Exception):
    """The device that was asked for is not there."""


class Run:
    """What train.py is given."""

    def __init__(self, link: Connection | None, folder: Path, device: str) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))  # processes of this one experiment, by torchrun
        self.rank = int(os.environ.get("RANK", "0"))
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        kind = next(name for name, is_there in there.items() if is_there) if device == "any" else device
        if not there[kind]:
            # The runner takes the words of CUDA for a sick machine, not for a bad idea.
            raise NoDeviceError(f"torch finds no {'GPU (CUDA_ERROR_NO_DEVICE)' if kind == 'cuda' else kind}")
        self.device = torch.device(kind)
        self._name = kind
        if kind == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
            self._name = torch.cuda.get_device_name(self.device)
        if self.world > 1:
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self._link = link
        with (folder / "logits").open("r+b") as file:
            self._buffer = torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.float32)
        self._model: torch.nn.Module | None = None
        self._in_flight: list[torch.cuda.Event] = []
        self.seed = self.vocabulary = self.bos = self.context = 0

    # The wire

    def _send(self, **message: Any) -> None:
        if self._link is not None:
            self._link.send_bytes(json.dumps(message).encode())

    def _receive(self) -> dict[str, Any]:
        assert self._link is not None
        message: dict[str, Any] = json.loads(self._link.recv_bytes())
        return message

    # For train.py

    def warmup(self, rows: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random tokens, int64 [rows, context] on the device, as inputs and targets: they carry no information."""
        inputs = torch.randint(self.vocabulary, (self._share(rows), context + 1), device=self.device)
        return inputs[:, :-1], inputs[:, 1:]

    def batches(self, rows: int, context: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """Yield (inputs, targets, progress): int64 [rows, context] on the device, and the spent part of the budget.

        The budget starts with the first batch, and the iterator ends with the budget. One batch is one step. Among
        several processes, each gets its share of the rows.
        """
        share = self._share(rows)
        while True:
            self._wait()
            progress, batch = self._next(rows, context)
            if batch is None:
                return
            batch = batch[self.rank * share :][:share]
            if self.device.type == "cuda":
                batch = batch.pin_memory() if batch.is_cpu else batch  # a copy that nothing has to wait for
            batch = batch.to(self.device, non_blocking=True).long()
            yield batch[:, :-1], batch[:, 1:], progress

    def average(self, model: torch.nn.Module) -> None:
        """Average the gradients over the processes of this experiment."""
        if self.world > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def report(self, loss: float) -> None:
        """A point of the learning curve: the mean loss in nats per token. NaN or an explosion ends the run."""
        self._send(loss=float(loss) if math.isfinite(loss) else str(loss))

    # Inside

    def _share(self, rows: int) -> int:
        if rows % self.world:
            raise ValueError(f"{rows} rows cannot be divided among {self.world} processes")
        return rows // self.world

    def _wait(self) -> None:
        """Let the device run one step ahead of its work at most, or steps would be in its queue at the deadline."""
        if self.device.type == "cuda":
            self._in_flight.append(torch.cuda.Event())
            self._in_flight[-1].record()
            if len(self._in_flight) > 1:
                self._in_flight.pop(0).synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _next(self, rows: int, context: int) -> tuple[float, torch.Tensor | None]:
        """The next batch, int32 [rows, context + 1]; None at the end. The first process asks, and tells the others."""
        progress = torch.tensor([-1.0], dtype=torch.float64)
        batch = torch.empty((rows, context + 1), dtype=torch.int32)
        if self._link is not None:
            self._send(rows=rows, context=context)
            while (message := self._receive()).get("do") == "score":
                self._answer(message["rows"])
            if "progress" in message:
                progress[0] = message["progress"]
                tokens = np.frombuffer(self._link.recv_bytes(), np.uint16).reshape(rows, context + 1)
                batch.copy_(torch.from_numpy(tokens.astype(np.int32)))
        if self.world > 1:
            progress, batch = progress.to(self.device), batch.to(self.device)
            torch.distributed.broadcast(progress, 0)
            torch.distributed.broadcast(batch, 0)
        return float(progress), None if float(progress) < 0 else batch

    def _answer(self, rows: int) -> None:
        """Put the model's logits for the tokens that follow on the wire into the shared buffer."""
        assert self._link is not None and self._model is not None
        tokens = np.frombuffer(self._link.recv_bytes(), np.uint16).reshape(rows, self.context).astype(np.int64)
        training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            logits = self._model(torch.from_numpy(tokens).to(self.device))
            shape = list(logits.shape)
            if logits.numel() <= self._buffer.numel():
                self._buffer[: logits.numel()].copy_(logits.float().reshape(-1))
        self._model.train(training)
        self._send(logits=shape, dtype=str(logits.dtype).removeprefix("torch."))

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _peak_vram_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return torch.mps.driver_allocated_memory() / 2**20 if self.device.type == "mps" else 0.0

    def serve(self) -> NoReturn:
        """Build and train as the referee says, then answer its questions until it ends this process."""
        self._send(type=self.device.type, name=self._name, world=self.world)
        order = [self._receive() if self._link is not None else {}]
        if self.world > 1:
            torch.distributed.broadcast_object_list(order, 0)
        self.seed, self.vocabulary = order[0]["seed"], order[0]["vocabulary"]
        self.bos, self.context = order[0]["bos"], order[0]["context"]
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # the clock counts every thread's seconds, and at this size one is the quickest
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)
        import train

        self._model = model = train.build(self)
        self._send(
            num_params=sum(each.numel() for each in model.parameters()),
            depth=getattr(model, "depth", "n/a"),
            flops_per_token=getattr(model, "flops_per_token", None),
        )
        while self._link is not None and (message := self._receive())["do"] == "score":
            self._answer(message["rows"])
        train.train(model, self)
        self._sync()
        self._send(trained=True, peak_vram_mb=self._peak_vram_mb())
        if self.world > 1:
            torch.distributed.destroy_process_group()
        while self._link is not None:
            self._answer(self._receive()["rows"])
        # Nor do the others leave by themselves. What train.py imports may hold on to the group: the functions of
        # torch.distributed.nn, which flex_attention brings along, have it as a default. Then the threads of gloo are
        # there to the end, and one that wants Python while the interpreter is taken down aborts the process.
        while True:
            signal.pause()


def guard_files(folder: Path, readable: list[str]) -> None:
    """Deny train.py the network and the files that a result could be smuggled in: checkpoints, caches, the data itself.

    It may read what belongs to Python and to the system, code beside it, and its own temporary files; it may write the
    latter alone. This holds for Python's own ways to open a file (an audit hook, PEP 578), which are those that honest
    mistakes and usual shortcuts take. It is no sandbox.
    """
    paths = sysconfig.get_paths()
    own = [str(folder), os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TRITON_CACHE_DIR"], "/dev/null"]
    system = ["/usr", "/lib", "/lib64", "/etc", "/opt", "/sys", "/proc", "/dev", "/System", "/Library"]
    installed = [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
    python = [sys.prefix, sys.base_prefix, *paths.values(), *installed]
    may_write = tuple(os.path.realpath(each) for each in own)
    may_read = (*may_write, *(os.path.realpath(each) for each in [*system, *python, *readable]))
    code = tuple(os.path.realpath(each) for each in [HERE, *sys.path])
    never = ("/dev/shm", *(os.path.realpath(each) for each in [data_folder()]))
    other_process = re.compile(rf"/proc/(?!self\b|{os.getpid()}\b|thread-self\b)\d+/")

    def below(path: str, roots: tuple[str, ...]) -> bool:
        return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)

    # Which arguments of other events are files that are changed.
    changed = {"os.rename": (0, 1), "os.link": (0, 1), "os.symlink": (1,), "os.truncate": (0,), "sqlite3.connect": (0,)}
    realpath, fsdecode = os.path.realpath, os.fsdecode  # as they are now, whatever train.py puts in their place

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(args[1], tuple):  # a text is the name of a socket on this machine
            raise PermissionError(
                f"train.py may not connect to {args[1][0]}: all that a model knows comes from its batches"
            )
        if event != "open" and event not in changed:
            return
        writes = event != "open" or bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        for argument in (args[index] for index in changed.get(event, (0,))):
            if not isinstance(argument, str | bytes | os.PathLike) or argument == ":memory:":
                continue
            path = realpath(fsdecode(argument))
            if below(path, may_write):
                continue
            readable = below(path, may_read) or (below(path, code) and path.endswith((".py", ".pyc", ".so", ".pth")))
            if readable and not writes and not below(path, never) and not other_process.match(path):
                continue
            raise PermissionError(
                f"train.py may not {'write' if writes else 'read'} {path}: all that a model knows comes from its "
                "batches (harness.py --readable lets it)"
            )

    sys.addaudithook(hook)


def main() -> int:
    folder, device, *readable = Path(sys.argv[1]), *sys.argv[2:]
    if sys.platform == "linux":  # PR_SET_PDEATHSIG: it ends with the process that started it, whatever it is doing
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    link = None
    if os.environ.get("RANK", "0") == "0":
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(folder / "socket"))
        link = Connection(client.detach())
    try:
        run = Run(link, folder, device)
        guard_files(folder, readable)
        run.serve()
    except EOFError:
        return 1  # the referee has gone
    except BaseException as error:  # noqa: BLE001  whatever train.py raises: the harness is told, and prints why
        traceback.print_exc()
        text = str(error) if isinstance(error, NoDeviceError) else f"train.py: {type(error).__name__}: {error}"
        if link is not None:
            link.send_bytes(json.dumps({"failed": text.splitlines()[0][:2000]}).encode())
        raise SystemExit(1) from None


if __name__ == "__main__":
    sys.exit(main())
