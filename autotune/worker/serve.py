"""The worker's side: answer the study's requests, one at a time, until it hangs up."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError, TrialError
from autotune.fingerprint.stack import stack_facts
from autotune.measure.memory import resident_bytes
from autotune.worker import messages
from autotune.worker.framing import read_frame, write_frame
from autotune.worker.workbench import Workbench, one_line
from autotune.workloads.registry import import_module

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Serve until the request pipe ends.

    Args:
        arguments: descriptors of the request pipe, the reply pipe and the marker; the device; the memory in
            bytes that trials may hold beyond the idle worker; modules to import, by name or `.py` file.
    """
    requests, replies, marker = (int(argument) for argument in arguments[:3])
    device, memory_bytes, modules = arguments[3], int(arguments[4]), arguments[5:]
    for descriptor in (requests, replies, marker):
        os.set_inheritable(descriptor, False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        bench = Workbench(device, marker, modules)
        for module in modules:
            import_module(module)
    except AutotuneError as error:
        write_frame(replies, messages.encode(messages.Refused(one_line(error))))
        return
    resident = resident_bytes(os.getpid())
    _limit_memory(memory_bytes)
    ready = messages.Ready(messages.PROTOCOL, os.getpid(), resident, stack_facts())
    write_frame(replies, messages.encode(ready))
    while (frame := read_frame(requests)) is not None:
        write_frame(replies, messages.encode(_answer(bench, messages.decode_request(frame))))


def _limit_memory(trials_bytes: int) -> None:
    """Let allocations fail, rather than the process die, once trials hold more than their share.

    RLIMIT_DATA counts private writable memory, unlike RLIMIT_AS, which the address space that libraries
    merely reserve would use up.
    """
    with open("/proc/self/status") as file:
        used = next((int(line.split()[1]) << 10 for line in file if line.startswith("VmData:")), 0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + trials_bytes
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )


def _answer(bench: Workbench, request: messages.Request) -> messages.Reply:
    bench.settle()
    try:
        match request:
            case messages.Prepare():
                return bench.prepare(request)
            case messages.Compile():
                return bench.compile(request)
            case messages.Build():
                return bench.build(request)
            case messages.Check():
                return bench.check(request)
            case messages.Measure():
                return bench.measure(request)
            case messages.Compare():
                return bench.compare(request)
            case messages.Release():
                return bench.release(request)
            case messages.MeasureCeilings():
                return bench.ceilings()
    except TrialError as failure:
        return messages.Failed(failure.verdict, failure.reason, failure.slot, bench.broken)
    except AutotuneError as error:
        return messages.Refused(one_line(error))
