"""The monitors, on real processes; NVML through the real pynvml on a stand-in library that plays a scenario.

`python -m pytest -m gpu tests/test_monitors.py` runs on real hardware, without Ray.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import monitors
from autoresearch_ray.errors import GpuError
from autoresearch_ray.model import Resources
from autoresearch_ray.monitors import _sampling
from autoresearch_ray.monitors.cpu import Cpu
from autoresearch_ray.monitors.none import NoMonitor
from autoresearch_ray.monitors.nvml import Nvml

HERE = Path(__file__).parent

# One device that shows everything and that nobody uses.
DEVICE = {
    "name": "NVIDIA H200",
    "uuid": "GPU-11111111-2222-3333-4444-555555555555",
    "used_mb": "500",
    "compute": "",
    "graphics": "",
    "energy_mj": "1000000",
    "power_mw": "100000",
    "utilisation_percent": "0",
    "temperature_c": "30",
    "throttle": "0x1",
}

# Watches while the scenario is played. The scenario names processes: {root} is the followed one, {child} its child,
# {loose} detached from it, and {stranger} is not its.
PROGRAM = """
import ctypes, dataclasses, json, os, subprocess, sys, time
from autoresearch_ray.errors import GpuError
from autoresearch_ray.monitors.nvml import Nvml

order = json.load(sys.stdin)
shell = 'sleep 60 & echo $! $(sleep 60 >&- 2>&- & echo $!); wait'
root = subprocess.Popen(
    ["sh", "-c", shell], stdout=subprocess.PIPE, text=True, env={**os.environ, "AUTORESEARCH_RUN": "its own"}
)
child, loose = root.stdout.readline().split()
stranger = subprocess.Popen(["sleep", "60"])
with open(os.environ["NVML_STAND_IN"], "w") as file:
    file.write(order["scenario"].format(root=root.pid, child=child, loose=loose, stranger=stranger.pid))
said = {}
try:
    monitor = Nvml(tuple(order["gpus"]))
    said["device"], said["ids"] = monitor.device, Nvml.ids()
    begun = time.monotonic()
    for step in order["looks"]:
        if step == "measure":
            with monitor.watch() as watch:
                watch.follow(root.pid)
        else:
            trouble = monitor.trouble(step == "alone")
            said.setdefault("troubles", []).append(trouble and [trouble.kind, trouble.words])
    if order["samples"]:
        begun = time.monotonic()
        with monitor.watch() as watch:
            watch.follow(root.pid)
            readings = ctypes.CDLL("libnvidia-ml.so.1").stand_in_readings
            while readings() < order["samples"] - 1 and time.monotonic() < begun + 20:
                time.sleep(0.01)
        said["seconds"] = time.monotonic() - begun
        said["resources"], said["lost"] = dataclasses.asdict(watch.resources), watch.lost
        said["samples"] = readings()
        if "answer" not in watch.lost:
            said["class"] = monitor.device_class
except GpuError as error:
    said["error"], said["hint"] = error.message, error.hint
finally:
    for pid in (root.pid, int(child), int(loose), stranger.pid):
        os.kill(pid, 9)
    root.wait(), stranger.wait()
json.dump(said, sys.stdout)
"""


@dataclass
class Stage:
    """Where scenarios are played."""

    folder: Path
    library: Path

    def python(self, program: str, *, stdin: str = "", path: Path | None = None) -> str:
        environ = {name: value for name, value in os.environ.items() if name != "AUTORESEARCH_RUN"}
        environ |= {
            "LD_LIBRARY_PATH": str(self.library),
            "NVML_STAND_IN": str(self.folder / "scenario"),
            "PYTHONPATH": os.pathsep.join(str(each) for each in (path, HERE.parent) if each),
        }
        done = subprocess.run(
            [sys.executable, "-c", program], input=stdin, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def play(self, *steps: str, gpus: tuple[str, ...] = ("0",), path: Path | None = None) -> dict[str, Any]:
        """Watch until every step was sampled once: `steps[0]` as the watch begins, the last as it ends."""
        order = {"scenario": "\nstep\n".join(steps) + "\n", "gpus": gpus, "samples": max(2, len(steps)), "looks": []}
        said: dict[str, Any] = json.loads(self.python(PROGRAM, stdin=json.dumps(order), path=path))
        return said

    def looks(self, *steps: str, gpus: tuple[str, ...] = ("0",), looks: str = "") -> list[list[str] | None]:
        """What is the trouble at each look: one for each step, unless said otherwise: to `measure` takes two steps."""
        order = {"scenario": "\nstep\n".join(steps) + "\n", "gpus": gpus, "samples": 0}
        order["looks"] = looks.split() or ["alone"] * len(steps)
        troubles: list[list[str] | None] = json.loads(self.python(PROGRAM, stdin=json.dumps(order)))["troubles"]
        return troubles


def described(*devices: dict[str, str], **general: str) -> str:
    """The first step of a scenario: the machine with these devices."""
    lines = {"devices": str(len(devices)), "driver": "580.65.06", **general}
    lines |= {f"{index}.{key}": value for index, device in enumerate(devices) for key, value in device.items()}
    return "\n".join(f"{key} {value}" for key, value in lines.items())


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        pytest.skip("the NVML stand-in needs a C compiler")

    def compiled(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("nvml")
        library = folder / "libnvidia-ml.so.1"
        source = HERE / "nvml_stand_in.c"
        subprocess.run([compiler, "-shared", "-fPIC", *options, "-o", str(library), str(source)], check=True)
        return folder

    return compiled


@pytest.fixture(scope="session")
def library(build: Callable[..., Path]) -> Path:
    return build()


@pytest.fixture
def stage(tmp_path: Path, library: Path) -> Stage:
    return Stage(tmp_path, library)


# --- NVML: the figures -----------------------------------------------------------------------------------------------


def test_a_growing_evaluation_is_measured_above_the_idle_level(stage: Stage) -> None:
    said = stage.play(
        described(DEVICE),
        "0.used_mb 4500\n0.power_mw 600000\n0.utilisation_percent 90\n0.temperature_c 60",
        "0.used_mb 8500\n0.power_mw 700000\n0.utilisation_percent 99\n0.temperature_c 71",
        "0.used_mb 500\n0.power_mw 200000\n0.utilisation_percent 0\n0.temperature_c 65\n0.energy_mj 1900500",
    )
    assert said["samples"] == 4
    assert said["lost"] == ""
    resources = said["resources"]
    assert resources["device"] == said["device"] == "NVIDIA H200"
    assert resources["uuid"] == DEVICE["uuid"]
    assert resources["driver"] == "580.65.06"
    assert resources["peak_mb"] == 8000
    assert resources["mean_mb"] == pytest.approx((4000 + 8000 + 0) / 3)
    assert resources["power_watts"] == pytest.approx(500)
    assert resources["utilisation_percent"] == pytest.approx(63)
    assert resources["temperature_c"] == 71
    assert resources["energy_joules"] == pytest.approx(900.5)
    assert resources["throttle"] == []
    assert not resources["contended"]


def test_a_class_of_devices_is_told_by_model_memory_and_driver(stage: Stage) -> None:
    assert stage.play(described(DEVICE))["class"] == "NVIDIA H200, 80 GB, driver 580"
    other = {**DEVICE, "name": "NVIDIA A100"}
    assert stage.play(described(DEVICE, DEVICE), gpus=("0", "1"))["class"] == "2 x NVIDIA H200, 80 GB, driver 580"
    mixed = stage.play(described(DEVICE, other), gpus=("1", "0"))
    assert mixed["class"] == "NVIDIA A100, 80 GB, NVIDIA H200, 80 GB, driver 580"


def test_what_is_not_shown_is_left_out_of_the_class(stage: Stage) -> None:
    said = stage.play(described({**DEVICE, "used_mb": "!3", "name": "!3"}, driver="!3"))
    assert said["class"] == "NVIDIA GPU"
    assert stage.play(described(DEVICE), "0.used_mb !15")["class"] == "NVIDIA H200, driver 580"


def test_memory_that_a_neighbour_frees_never_counts_below_zero(stage: Stage) -> None:
    resources = stage.play(described(DEVICE), "0.used_mb 100")["resources"]
    assert resources["peak_mb"] == resources["mean_mb"] == 0


def test_without_an_energy_counter_the_power_is_integrated(stage: Stage) -> None:
    said = stage.play(described({**DEVICE, "energy_mj": "!3"}), "0.power_mw 300000")
    # Two samples, 100 W and then 300 W: 200 W over the time between them, which the watch bounds from above.
    assert 0 < said["resources"]["energy_joules"] <= 200 * said["seconds"]
    longer = stage.play(described({**DEVICE, "energy_mj": "!3", "power_mw": "200000"}), "", "", "")
    assert longer["resources"]["energy_joules"] == pytest.approx(200 * longer["seconds"], rel=0.2)


def test_energy_is_unknown_where_power_was_missing_for_a_moment(stage: Stage) -> None:
    resources = stage.play(described({**DEVICE, "energy_mj": "!3"}), "0.power_mw !3", "0.power_mw 100000")["resources"]
    assert resources["energy_joules"] is None
    assert resources["power_watts"] == 100


def test_several_gpus_count_as_one(stage: Stage) -> None:
    other = {**DEVICE, "name": "NVIDIA A100", "uuid": "GPU-other", "used_mb": "1000", "temperature_c": "50"}
    said = stage.play(
        described(DEVICE, other),
        "0.used_mb 1500\n1.used_mb 5000\n0.power_mw 300000\n1.power_mw 500000\n0.utilisation_percent 100\n"
        "0.energy_mj 1003000\n1.energy_mj 1004000\n0.throttle 0x4\n1.throttle 0x40\n"
        "0.compute {root}:700\n1.compute {root}:900",
        gpus=("0", "1"),
    )
    resources = said["resources"]
    assert said["ids"] == ["0", "1"]
    assert resources["device"] == "NVIDIA H200"
    assert resources["uuid"] == f"{DEVICE['uuid']},GPU-other"
    assert resources["peak_mb"] == 1000 + 4000
    assert resources["process_peak_mb"] == 700 + 900
    assert resources["power_watts"] == 800
    assert resources["utilisation_percent"] == 50
    assert resources["energy_joules"] == 7
    assert resources["temperature_c"] == 50
    assert resources["throttle"] == ["power_cap", "hw_thermal"]


def test_what_one_of_several_gpus_does_not_show_is_unknown_of_all(stage: Stage) -> None:
    other = {**DEVICE, "uuid": "GPU-other", "power_mw": "!3"}
    resources = stage.play(described(DEVICE, other), "0.used_mb 600", gpus=("0", "1"))["resources"]
    assert resources["power_watts"] is None
    assert resources["peak_mb"] == 100


@pytest.mark.parametrize("uuid", ["GPU-other", "MIG-other"])
def test_a_gpu_is_found_by_its_uuid(stage: Stage, uuid: str) -> None:
    said = stage.play(described(DEVICE, {**DEVICE, "name": "NVIDIA A100", "uuid": uuid}), gpus=(uuid,))
    assert said["device"] == "NVIDIA A100"
    assert said["resources"]["uuid"] == uuid


def test_throttling_is_told_in_words_without_idling_and_fixed_clocks(stage: Stage) -> None:
    resources = stage.play(
        described({**DEVICE, "throttle": "0x80"}),  # before the evaluation: not its
        "0.throttle 0x3",
        "0.throttle 0x24",
        "0.throttle 0x48",
    )["resources"]
    assert resources["throttle"] == ["power_cap", "hw_slowdown", "sw_thermal", "hw_thermal"]


FIELDS = {
    "name": ("device", "NVIDIA GPU"),
    "uuid": ("uuid", None),
    "used_mb": ("peak_mb", None),
    "compute": ("process_peak_mb", None),
    "graphics": (None, None),
    "energy_mj": (None, None),
    "power_mw": ("power_watts", None),
    "utilisation_percent": ("utilisation_percent", None),
    "temperature_c": ("temperature_c", None),
    "throttle": ("throttle", []),
}


@pytest.mark.parametrize(("key", "error"), [*((key, "!3") for key in FIELDS), ("used_mb", "!4"), ("energy_mj", "!4")])
def test_one_field_that_is_not_shown_takes_no_other_with_it(stage: Stage, key: str, error: str) -> None:
    busy = "" if key == "compute" else "0.compute {root}:40"
    said = stage.play(described({**DEVICE, "throttle": "0x4", key: error}), busy)
    resources = said["resources"]
    field, instead = FIELDS[key]
    assert said["lost"] == ""
    assert not resources["contended"]
    if field:
        assert resources[field] == instead
    unknown = {name for name, value in resources.items() if value is None}
    assert unknown - {"mean_mb"} == ({field} if field and instead is None else set())


def test_an_unknown_error_of_one_field_is_no_loss_of_the_gpu(stage: Stage) -> None:
    said = stage.play(described({**DEVICE, "power_mw": "!999", "temperature_c": "!999"}))
    assert said["lost"] == ""
    assert said["resources"]["power_watts"] is None
    assert said["resources"]["peak_mb"] == 0


def test_an_old_driver_is_asked_through_its_own_entry_points(tmp_path: Path, build: Callable[..., Path]) -> None:
    stage = Stage(tmp_path, build("-DOLD_DRIVER"))
    resources = stage.play(described({**DEVICE, "throttle": "0x4"}), "0.compute {root}:40")["resources"]
    assert resources["temperature_c"] == 30
    assert resources["throttle"] == ["power_cap"]
    assert resources["process_peak_mb"] == 40


# --- NVML: whose processes -------------------------------------------------------------------------------------------


def test_the_experiments_own_processes_are_summed_and_are_no_strangers(stage: Stage) -> None:
    resources = stage.play(
        described(DEVICE), "0.compute {root}:100 {child}:200 {loose}:400\n0.graphics {child}:200", "0.compute {root}:50"
    )["resources"]
    assert resources["process_peak_mb"] == 700
    assert not resources["contended"]


@pytest.mark.parametrize("kind", ["compute", "graphics"])
def test_a_stranger_on_the_device_contends_and_is_not_counted_as_ours(stage: Stage, kind: str) -> None:
    resources = stage.play(described(DEVICE), f"0.{kind} {{stranger}}:300", f"0.{kind} ")["resources"]
    assert resources["contended"]
    assert resources["process_peak_mb"] is None


def test_a_stranger_that_was_there_before_contends(stage: Stage) -> None:
    assert stage.play(described({**DEVICE, "compute": "{stranger}:"}))["resources"]["contended"]


HIDDEN = "4194305"  # beyond the highest pid that Linux gives: a process of the host, seen from a container


@pytest.mark.parametrize(
    ("before", "during", "contended"),
    [
        (f"{HIDDEN}:300", f"{HIDDEN}:300", True),  # held memory before the experiment, and still does
        (f"{HIDDEN}:300", "", False),  # an earlier experiment that the driver was still clearing away
        ("", f"{HIDDEN}:300", False),  # came with the experiment: it is the experiment, under its host's pid
        (f"{HIDDEN}:", f"{HIDDEN}:", False),  # the driver does not say that it holds any memory
    ],
)
def test_a_process_outside_our_container_contends_if_it_was_there_before(
    stage: Stage, before: str, during: str, contended: bool
) -> None:
    resources = stage.play(described({**DEVICE, "compute": before}), f"0.compute {during}")["resources"]
    assert resources["contended"] is contended


def test_a_process_whose_memory_is_not_shown_leaves_the_sum_unknown(stage: Stage) -> None:
    resources = stage.play(described(DEVICE), "0.compute {root}:100 {child}:")["resources"]
    assert resources["process_peak_mb"] is None
    assert resources["peak_mb"] == 0


# --- NVML: what goes wrong -------------------------------------------------------------------------------------------


def test_a_gpu_lost_midway_is_told_and_what_was_seen_is_kept(stage: Stage) -> None:
    said = stage.play(
        described(DEVICE),
        "0.used_mb 4500\n0.energy_mj 1250000",
        "0.used_mb !15\n0.power_mw !15",
        "0.used_mb 9999\n0.power_mw 1",  # not asked any more
    )
    assert said["lost"] == "GPU 0 cannot be read: GPU is lost"
    assert said["samples"] == 3
    assert said["resources"]["peak_mb"] == 4000
    assert said["resources"]["energy_joules"] == 250
    assert said["resources"]["device"] == "NVIDIA H200"


def test_a_loss_that_another_field_tells_first_is_a_loss(stage: Stage) -> None:
    assert "GPU is lost" in stage.play(described(DEVICE), "0.power_mw !15")["lost"]


def test_an_unknown_error_of_the_memory_is_a_loss_if_it_stays(stage: Stage) -> None:
    assert stage.play(described(DEVICE), "0.used_mb !999")["lost"] == "GPU 0 cannot be read: Unknown Error"
    passing = stage.play(described(DEVICE), "0.used_mb !999", "0.used_mb 700")
    assert passing["lost"] == ""
    assert passing["resources"]["peak_mb"] == 200


def test_a_gpu_that_cannot_be_read_at_the_start_is_lost_without_figures(stage: Stage) -> None:
    said = stage.play(described({**DEVICE, "used_mb": "!999"}), "0.used_mb 700")
    assert said["lost"] == "GPU 0 cannot be read: Unknown Error"
    assert said["resources"]["peak_mb"] is None


def test_a_driver_that_never_answers_does_not_hold_the_experiment(stage: Stage) -> None:
    said = stage.play(described(DEVICE), "0.used_mb hang")
    assert said["lost"] == "NVML did not answer for 5 s"
    assert said["seconds"] < 20  # where the experiment gives up waiting for readings


def test_a_watch_ends_at_once(stage: Stage) -> None:
    # The interval is 0.5 s. On a busy machine it takes more than one try to see what the watch itself takes.
    assert any(stage.play(described(DEVICE))["seconds"] < 0.4 for _ in range(5))


def test_without_the_library_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()  # found first, and no library: hides a real one
    said = Stage(tmp_path, tmp_path).play("")
    assert said["error"] == "NVML cannot be used: NVML Shared Library Not Found"
    assert "--gpus-per-worker 0" in said["hint"]


@pytest.mark.parametrize(
    ("error", "hint"), [("!9", "modprobe"), ("!18", "reboot"), ("!4", "/dev/nvidiactl"), ("!999", "nvidia-smi")]
)
def test_a_driver_that_does_not_open_is_an_error_with_a_hint(stage: Stage, error: str, hint: str) -> None:
    said = stage.play(described(DEVICE, init=error))
    assert said["error"].startswith("NVML cannot be used")
    assert hint in said["hint"]


@pytest.mark.parametrize("gpu", ["2", "GPU-none", "first"])
def test_a_gpu_that_is_not_here_is_an_error_that_lists_what_is(stage: Stage, gpu: str) -> None:
    said = stage.play(described(DEVICE, DEVICE), gpus=(gpu,))
    assert said["error"].startswith(f"GPU {gpu} cannot be read")
    assert said["error"].endswith("(here: 0, 1)")


def test_another_package_of_the_name_pynvml_is_told(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("def nvmlInit():\n    pass\n")
    said = stage.play(described(DEVICE), path=tmp_path)
    assert str(tmp_path / "pynvml.py") in said["error"]
    assert "nvidia-ml-py" in said["hint"]


def test_nvml_without_a_gpu_to_watch_is_an_error() -> None:
    with pytest.raises(GpuError, match="no GPU"):
        Nvml(())


# --- NVML: what speaks against measuring -----------------------------------------------------------------------------


def test_nothing_speaks_against_an_idle_gpu_or_one_that_shows_next_to_nothing(stage: Stage) -> None:
    faultless = {"xids": "", "ecc": "0", "pages_pending": "0", "rows_failed": "0"}
    assert stage.looks(described({**DEVICE, **faultless}), "0.used_mb 900") == [None, None]
    assert stage.looks(described({**dict.fromkeys(DEVICE, "!3"), "used_mb": "!3"}), "") == [None, None]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("0.xids 79", "GPU 0: Xid 79: fallen off the bus"),
        ("0.xids 13 31 48", "GPU 0: Xid 48: uncorrectable memory error"),
        ("0.ecc 7", "GPU 0: 2 uncorrectable ECC errors"),
        ("0.pages_pending 1", "GPU 0: bad pages of memory are in use until it is reset"),
        ("0.rows_failed 1", "GPU 0: a bad row of memory could not be remapped"),
        ("0.used_mb !15", "GPU 0 cannot be read: GPU is lost"),
        ("0.ecc !16", "GPU 0 cannot be read: GPU requires restart"),
        ("0.xids !15", "GPU 0 cannot be read: GPU is lost"),
    ],
)
def test_a_fault_of_the_device_makes_it_sick_for_good_also_where_it_is_shared(
    stage: Stage, fault: str, words: str
) -> None:
    device = {**DEVICE, "xids": "", "ecc": "5", "pages_pending": "0", "rows_failed": "0"}
    mended = "0.used_mb 500\n0.ecc 5\n0.pages_pending 0\n0.rows_failed 0\n0.xids "
    # A fault is seen by the look at which a reading of the memory begins its step, or else by the next one.
    troubles = stage.looks(described(device), fault, fault, mended, mended, looks="alone shared alone shared alone")
    assert troubles[0] is None
    assert troubles[2:] == [["sick", words]] * 3


def test_xids_that_a_program_can_bring_about_or_that_were_corrected_are_no_fault(stage: Stage) -> None:
    ours = " ".join(str(each) for each in (13, 31, 43, 45, 46, 63, 68, 69, 92, 109))
    assert stage.looks(described({**DEVICE, "xids": ""}), f"0.xids {ours}", "", "") == [None] * 4


def test_errors_from_before_the_run_are_not_held_against_a_gpu(stage: Stage) -> None:
    assert stage.looks(described({**DEVICE, "ecc": "3"}), "", "0.ecc 3") == [None] * 3


def test_a_broken_link_counts_where_several_gpus_work_together(stage: Stage) -> None:
    devices = described({**DEVICE, "xids": ""}, {**DEVICE, "xids": ""})
    assert stage.looks(devices, "0.xids 74", "", "") == [None] * 4
    assert stage.looks(devices, "1.xids 74", "", "", gpus=("0", "1"))[-1] == ["sick", "GPU 1: Xid 74: NVLink failed"]


def test_the_faults_of_a_slice_are_those_of_its_gpu(stage: Stage) -> None:
    part = {**DEVICE, "uuid": "MIG-1", "parent": "1"}
    (trouble,) = stage.looks(described(part, {**DEVICE, "xids": "79"}), gpus=("MIG-1",))
    assert trouble is not None and trouble == ["sick", "GPU MIG-1: Xid 79: fallen off the bus"]
    (trouble,) = stage.looks(described(part, {**DEVICE, "rows_failed": "1"}), gpus=("MIG-1",))
    assert trouble is not None and trouble[0] == "sick"


def test_a_stranger_is_named_and_waited_for_where_nobody_else_belongs(stage: Stage) -> None:
    there = "0.compute {stranger}:8192 4194305:10\n0.used_mb 9000"
    busy, still, gone = stage.looks(described(DEVICE), there, there, "0.compute \n0.used_mb 500", looks="alone " * 4)[
        1:
    ]
    assert busy is not None and busy[0] == "busy"
    assert re.fullmatch(r"process \d+ \(sleep, 8,192 MB\) and 1 more on GPU 0", busy[1])
    assert still == busy and gone is None
    assert stage.looks(described(DEVICE), there, looks="shared shared") == [None, None]


def test_a_stranger_from_another_container_has_no_name(stage: Stage) -> None:
    (trouble,) = stage.looks(described({**DEVICE, "compute": f"{HIDDEN}:300"}))
    assert trouble == ["busy", f"process {HIDDEN} (not of this container, 300 MB) on GPU 0"]


def test_a_desktop_is_no_stranger_and_its_memory_comes_and_goes(stage: Stage) -> None:
    desktop = {**DEVICE, "graphics": "{stranger}:300"}
    assert stage.looks(described(desktop), "0.used_mb 3000", "0.used_mb 400") == [None] * 3
    both = stage.looks(described({**desktop, "compute": "{stranger}:300"}))[0]
    assert both is not None and both[0] == "busy"


def test_what_an_experiment_left_behind_should_be_gone_in_a_moment(stage: Stage) -> None:
    left = "0.compute {root}:8000\n0.used_mb 8500"
    troubles = stage.looks(
        described(DEVICE), left, left, left, "0.compute ", "0.used_mb 500", looks="alone measure alone alone alone"
    )
    assert troubles[0] is None and troubles[3] is None
    process, memory = troubles[1:3]
    assert process is not None and process[0] == "unsettled"
    assert re.fullmatch(r"process \d+ \(sh, 8,000 MB\), left of an experiment, on GPU 0", process[1])
    assert memory == ["unsettled", "8,000 MB that were not given back on GPU 0"]


def test_memory_that_is_taken_after_all_was_given_back_is_somebody_elses(stage: Stage) -> None:
    looks = "alone measure alone alone"
    troubles = stage.looks(described(DEVICE), "", "", "0.used_mb 600", "0.used_mb 8500", looks=looks)
    assert troubles == [None, None, ["busy", "8,000 MB in use on GPU 0, by nobody that is shown here"]]


def test_who_does_not_answer_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sampling, "PATIENCE_SECONDS", 0.01)
    asked, answer = [], threading.Event()

    def question(what: str) -> str:
        asked.append(what)
        answer.wait()
        return what

    asker = _sampling.Asker(question)
    for what in ("one", "two"):
        with pytest.raises(TimeoutError):
            asker.ask(what)
    answer.set()
    monkeypatch.setattr(_sampling, "PATIENCE_SECONDS", 60.0)
    assert asker.ask("three") == "one" and asker.ask("four") == "four" and asked == ["one", "four"]


def test_a_driver_that_does_not_answer_is_unsettled(stage: Stage) -> None:
    (trouble,) = stage.looks(described({**DEVICE, "used_mb": "hang"}))
    assert trouble == ["unsettled", "NVML did not answer for 5 s"]


def test_a_reading_that_is_refused_is_unsettled(stage: Stage) -> None:
    troubles = stage.looks(described(DEVICE), "0.used_mb !999", "0.used_mb 500")
    assert troubles == [None, ["unsettled", "GPU 0 cannot be read: Unknown Error"], None]


# --- CPU -------------------------------------------------------------------------------------------------------------

HOLD = "import sys; block = b'x' * (64 << 20); print(flush=True); sys.stdin.read()"


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A process of 64 MB with a child of 64 MB, both ready; they end with its standard input."""
    program = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {HOLD!r}]); {HOLD}; child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    yield process
    process.communicate()


def test_the_resident_memory_of_the_whole_tree_is_seen(family: subprocess.Popen[str]) -> None:
    with Cpu(()).watch() as watch:
        watch.follow(family.pid)
    resources = watch.resources
    assert watch.lost == ""
    assert resources.device == "cpu"
    assert resources.peak_mb is not None
    assert resources.mean_mb is not None
    assert 128 < resources.peak_mb < 400
    assert resources.mean_mb <= resources.peak_mb
    assert resources.utilisation_percent is resources.energy_joules is resources.power_watts is None
    assert not resources.contended


def test_what_detached_is_still_counted(family: subprocess.Popen[str]) -> None:
    """The first process is killed, its child lives on."""
    assert family.stdin is not None
    with Cpu(()).watch() as watch:
        watch.follow(family.pid)
        _until(lambda: watch.resources.peak_mb is not None)
        family.kill()
        family.wait()
    assert watch.resources.mean_mb is not None
    assert watch.resources.peak_mb is not None
    assert 64 < watch.resources.mean_mb < watch.resources.peak_mb


def test_what_was_never_seen_is_unknown_and_not_zero() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with Cpu(()).watch() as watch:
        watch.follow(gone.pid)
    assert watch.resources == Resources(device="cpu")


def test_an_error_of_the_evaluation_passes_through_the_watch() -> None:
    with pytest.raises(RuntimeError, match="its own"), Cpu(()).watch():
        raise RuntimeError("its own")


def test_processors_of_another_make_are_another_class() -> None:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    device_class = Cpu(()).device_class
    assert device_class.startswith("cpu, ") and device_class == Cpu(("0",)).device_class
    assert not named or device_class.removeprefix("cpu, ") == " ".join(named[0].partition(":")[2].split())


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- Each of them ----------------------------------------------------------------------------------------------------


def test_nothing_is_known_without_a_monitor() -> None:
    assert NoMonitor(()).device == NoMonitor(()).device_class == "cpu"
    monitor = NoMonitor(("0",))
    with monitor.watch() as watch:
        watch.follow(1)
    assert watch.resources == Resources(device=monitor.device) == Resources(device="unknown")
    assert watch.lost == ""


CONTRACT = """
import os, sys
from autoresearch_ray.model import Resources
from autoresearch_ray.ports import Monitor, named

monitor: Monitor = named("monitors", sys.stdin.read())(("0",))
for _ in range(2):
    watch = monitor.watch()
    with watch as same:
        assert same is watch
        watch.follow(os.getpid())
    assert isinstance(watch.resources, Resources)
    assert watch.resources.device == monitor.device != ""
    assert watch.lost == ""
    assert monitor.trouble(True) is None and monitor.trouble(False) is None
assert monitor.device_class == monitor.device_class != ""
foreign = {"ray", "git", "click", "rich", "optuna"} & sys.modules.keys()
assert not foreign, foreign
"""


@pytest.mark.parametrize(
    "name", [each.name for each in pkgutil.iter_modules(monitors.__path__) if not each.name.startswith("_")]
)
def test_each_monitor_keeps_the_contract_and_stands_alone(stage: Stage, name: str) -> None:
    (stage.folder / "scenario").write_text(described(DEVICE) + "\n")
    stage.python(CONTRACT, stdin=name)


@pytest.mark.gpu
def test_a_real_gpu_tells_what_it_is_and_how_it_is() -> None:
    try:
        gpus = Nvml.ids()
    except GpuError as error:
        pytest.skip(f"no GPU: {error.message}")
    monitor = Nvml(gpus[:1])
    with monitor.watch() as watch:
        watch.follow(os.getpid())
        time.sleep(1.2)  # idle: two samples between the first and the last
    resources = watch.resources
    assert watch.lost == ""
    assert "NVIDIA" in resources.device or resources.device == monitor.device
    assert resources.uuid is not None
    assert resources.uuid.startswith("GPU-")
    assert resources.driver
    assert Nvml((resources.uuid,)).device == monitor.device
    assert Nvml((resources.uuid,)).device_class == monitor.device_class
    assert re.fullmatch(re.escape(monitor.device) + r", \d+ GB, driver \d+", monitor.device_class)
    assert resources.power_watts is not None
    assert 1 < resources.power_watts < 2000
    assert resources.energy_joules is not None
    assert resources.energy_joules > 0
    assert resources.temperature_c is not None
    assert 5 < resources.temperature_c < 120
    assert resources.peak_mb is not None
    assert resources.mean_mb is not None
    assert 0 <= resources.mean_mb <= resources.peak_mb
