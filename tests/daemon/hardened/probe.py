"""Run by a unit with all the restrictions of autotuned.service: what works there, and what does not.

Argument: the file for what is told: for each thing by name, an empty text, or why it does not work.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWUSER = 0x10000000


def inductor() -> None:
    """C++ that torch compiles."""
    import torch

    x = torch.randn(64, 64)
    torch.testing.assert_close(torch.compile(lambda x: torch.sin(x) + 1)(x), torch.sin(x) + 1)
    assert os.listdir(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def triton() -> None:
    """A kernel that Triton compiles for a GPU that is not here, and its cache."""
    words = (
        "spaces",
        "rms_norm",
        "-p",
        "rows=4,hidden=1024",
        "--device",
        "nvidia-h200",
        "--compile",
        "--sample",
        "1",
    )
    done = subprocess.run(
        [sys.executable, "-m", "autotune", *words, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compiled"] == 1, done.stdout
    assert os.listdir(os.environ["TRITON_CACHE_DIR"])


def memory_of_several_processes() -> None:
    shared = shared_memory.SharedMemory(create=True, size=1 << 20)
    shared.buf[0] = 1
    shared.close()
    shared.unlink()
    import torch

    torch.zeros(1 << 16).share_memory_()
    multiprocessing.get_context("spawn").Lock()


def binding() -> None:
    """Of threads and memory: sched_setaffinity, mbind."""
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(238, 0, None, 0) != 0:  # set_mempolicy(MPOL_DEFAULT) on x86-64
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def priorities() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)


def sockets() -> None:
    for family, address in (
        (socket.AF_UNIX, "/run/autotune/probe.sock"),
        (socket.AF_INET, ("127.0.0.1", 0)),
    ):
        with socket.socket(family) as listening:
            listening.bind(address)
            listening.listen()
            with socket.socket(family) as calling:
                calling.connect(listening.getsockname())
    os.unlink("/run/autotune/probe.sock")


def code_in_temporary_files() -> None:
    """Compilers leave libraries there, and load them."""
    made = Path("/tmp/probe.so")
    subprocess.run(
        ["gcc", "-shared", "-x", "c", "-", "-o", made], input=b"int one(void) { return 1; }", check=True
    )
    assert ctypes.CDLL(str(made)).one() == 1


def write_system() -> None:
    Path("/usr/probe").write_text("")


def write_settings() -> None:
    Path("/etc/autotune/../probe").write_text("")


def write_checkout() -> None:
    Path(__file__).with_name("probe.written").write_text("")


def see_homes() -> None:
    assert os.listdir("/root")


def new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def packets() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def netlink() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


def become_another() -> None:
    os.setuid(0)


def real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def set_user_id_file() -> None:
    made = Path("/var/lib/autotune/probe.suid")
    made.write_text("")
    made.chmod(0o4755)


WORKS = (
    inductor,
    triton,
    memory_of_several_processes,
    binding,
    priorities,
    sockets,
    code_in_temporary_files,
)
REFUSED = (
    write_system,
    write_settings,
    write_checkout,
    see_homes,
    new_namespace,
    packets,
    netlink,
    become_another,
    real_time,
    set_user_id_file,
)


def told(attempt: Callable[[], None]) -> str:
    """Why it does not work; empty if it does."""
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return ""


def main() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {
        "works": {attempt.__name__: told(attempt) for attempt in WORKS},
        "refused": {attempt.__name__: told(attempt) for attempt in REFUSED},
        "status": {name: status[name].strip() for name in ("NoNewPrivs", "Seccomp", "CapEff", "CapBnd")},
        "user": os.getuid(),
        "temporary": os.listdir("/tmp"),
    }
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
