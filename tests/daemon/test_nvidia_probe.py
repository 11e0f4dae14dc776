"""Looking at an NVIDIA device: a fake library answers as its driver would."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import msgspec
import pytest

from autotune.config import GateSettings
from autotune.daemon.calendar import Windows
from autotune.daemon.gate import Gate
from autotune.daemon.nvidia_probe import NvidiaProbe, Patient
from tests.fingerprint.fake_nvml import LOST, MIB, FakeNvml, NVMLError, h200, slice_of

FOREIGN = 4_000_000
"""A process id beyond the largest there is."""


def idle(**changed):
    """An idle H200."""
    answers = {
        "ComputeRunningProcesses": [],
        "MPSComputeRunningProcesses": [],
        "MemoryInfo": SimpleNamespace(total=143771 * MIB, used=600 * MIB),
        "CurrentClocksEventReasons": 0x1,
        "Temperature": {0: 40},
        "PowerUsage": 120_000,
    }
    return h200(**{**answers, **changed})


def process(pid: int, memory: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc").mkdir()
    return tmp_path


def broken(root, *gpus, index: int = 0, tuning: bool = False, **limits) -> list[str]:
    """The conditions that do not hold."""
    settings = msgspec.structs.replace(GateSettings(), **limits)
    probe = NvidiaProbe(index, settings, FakeNvml(*gpus), str(root))
    return [one.name for one in probe.look(tuning) if not one.holds]


def test_an_idle_device_is_idle(root) -> None:
    assert [] == broken(root, idle())


@pytest.mark.parametrize(
    ("changed", "condition"),
    [
        ({"ComputeRunningProcesses": [process(FOREIGN, 5 * MIB)]}, "other processes"),
        ({"MemoryInfo": SimpleNamespace(total=143771 * MIB, used=1100 * MIB)}, "memory"),
        ({"MPSComputeRunningProcesses": [process(FOREIGN, 5 * MIB)]}, "MPS"),
        ({"CurrentClocksEventReasons": 0x41}, "clocks"),
        ({"Temperature": {0: 81}}, "temperature"),
    ],
)
def test_each_condition_holds_it_back(root, changed, condition) -> None:
    assert [condition] == broken(root, idle(**changed))


def test_our_own_processes_and_their_memory_and_throttling_do_not_end_a_study(root) -> None:
    folder = root / f"proc/{os.getpid()}"
    folder.mkdir()
    (folder / "stat").write_text(f"{os.getpid()} (python) S 1" + " 0" * 40)
    ours = idle(
        ComputeRunningProcesses=[process(os.getpid(), 40_000 * MIB)],
        MemoryInfo=SimpleNamespace(total=143771 * MIB, used=40_600 * MIB),
        CurrentClocksEventReasons=0x4,
    )
    assert [] == broken(root, ours, tuning=True)


def test_a_running_mps_is_refused_and_says_so(root) -> None:
    (root / "proc/77").mkdir()
    (root / "proc/77/comm").write_text("nvidia-cuda-mps-control\n")
    assert ["MPS"] == broken(root, idle())
    probe = NvidiaProbe(0, GateSettings(), FakeNvml(idle()), str(root))
    assert "nvidia-cuda-mps-control" in probe.look(False)[0].told


def test_a_mig_instance_is_a_device_of_its_own(root) -> None:
    def instance(*processes):
        made = slice_of("NVIDIA H200", "1g.18gb", 16, 16384)
        made.answers |= {
            "ComputeRunningProcesses": list(processes),
            "MemoryInfo": SimpleNamespace(total=16384 * MIB, used=20 * MIB),
        }
        return made

    board = idle(MigMode=[1, 1])
    board.instances = [instance(process(FOREIGN, MIB)), None, instance()]
    gpus = (idle(), board, idle(Temperature={0: 90}))
    found = [broken(root, *gpus, index=index) for index in range(4)]
    assert [[], ["other processes"], [], ["temperature"]] == found


def test_the_power_budget_counts_what_this_device_may_draw(root) -> None:
    gpus = idle(), idle(PowerUsage=400_000)
    assert [] == broken(root, *gpus, power_watts=1100.0)
    assert ["power"] == broken(root, *gpus, power_watts=1099.0)
    # While tuning, what it does draw counts.
    assert [] == broken(root, *gpus, power_watts=520.0, tuning=True)
    assert ["power"] == broken(root, *gpus, power_watts=519.0, tuning=True)


def leftovers(root, *after, before=None, tuned: bool = True) -> list[str]:
    """What is still there of us, look for look, of a device that we used."""
    library = FakeNvml(before or idle())
    probe = NvidiaProbe(0, GateSettings(), library, str(root))
    probe.look(False)
    if tuned:
        probe.occupy()
    found = []
    for gpu in after:
        library.gpus = [gpu]
        found.append(probe.leftover())
    return found


def in_use(mib: int, *processes):
    memory = SimpleNamespace(total=143771 * MIB, used=mib * MIB)
    return idle(MemoryInfo=memory, ComputeRunningProcesses=list(processes))


def test_memory_that_the_driver_still_holds_after_our_process_ended_is_told_until_it_is_free(root) -> None:
    # Below the limit under which a device counts as idle, and yet ours.
    held, *free = leftovers(root, in_use(1000), in_use(630), in_use(5000))
    assert "1000 MiB are in use by no living process, at most 664 MiB" in held
    # Once it was free, what comes is not ours.
    assert ["", ""] == free


def test_a_dead_process_that_the_driver_still_lists_is_ours(root) -> None:
    told, free = leftovers(root, in_use(5600, process(FOREIGN, 5000 * MIB)), idle())
    assert ["4000000", ""] == [told.rpartition("lists ")[2].split()[0], free]


def test_those_who_came_meanwhile_or_were_there_before_are_waited_for_by_nobody(root) -> None:
    folder = root / "proc/77"
    folder.mkdir()
    (folder / "stat").write_text("77 (server) S 1" + " 0" * 40)
    others = in_use(9600, process(77, 9000 * MIB))
    assert [""] == leftovers(root, others)
    assert [""] == leftovers(
        root, in_use(800, process(FOREIGN, 200 * MIB)), before=in_use(800, process(FOREIGN, 200 * MIB))
    )
    # As in containers, where it is not told what they hold.
    assert [""] == leftovers(root, in_use(9600, process(77, None)))
    (told,) = leftovers(root, in_use(9900, process(77, 9000 * MIB)))
    assert "900 MiB" in told
    # A zombie is dead.
    (folder / "stat").write_text("77 (server) Z 1" + " 0" * 40)
    assert [True] == [bool(told) for told in leftovers(root, others)]


def test_a_device_that_we_did_not_use_holds_nothing_of_ours(root) -> None:
    assert [""] == leftovers(root, in_use(5000), tuned=False)


def test_a_library_that_fails_tells_nothing_of_what_is_left(root) -> None:
    library = FakeNvml(idle())
    gate = Gate(Patient(NvidiaProbe(0, GateSettings(), library, str(root))), Windows(), 1)
    gate.look()
    gate.occupy()
    library.gpus = []
    assert "cannot be told: StateError: the cuda library lists no device 0" in gate.leftover()
    # It is opened anew for the next question.
    assert 0 == library.open
    library.gpus = [idle()]
    assert "" == gate.leftover()


def test_whatever_the_library_fails_with_reads_as_busy(root) -> None:
    missing = FakeNvml(init=NVMLError(12))
    lost = FakeNvml(idle(ComputeRunningProcesses=NVMLError(LOST)))
    gone = FakeNvml()
    for library in (missing, lost, gone):
        gate = Gate(NvidiaProbe(0, GateSettings(), library, str(root)), Windows(), 1)
        gate.look()
        assert gate.obstacle is not None
        assert "busy" in gate.obstacle.told
        # It is opened anew for the next look: the driver may have been loaded again.
        assert 0 == library.open


def test_a_library_that_hangs_reads_as_busy_until_it_answers() -> None:
    release = threading.Event()

    class Hanging:
        looks = 0

        def look(self, tuning: bool):
            self.looks += 1
            release.wait()
            return []

        def adopt(self, settings: GateSettings) -> None: ...

    hanging = Hanging()
    gate = Gate(Patient(hanging, 0.02), Windows(), 1)
    for _ in range(3):
        gate.look()
        assert not gate.open
    assert 1 == hanging.looks
    release.set()
    while not gate.open:
        gate.look()
    assert 2 <= hanging.looks
