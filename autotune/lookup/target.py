"""Which device a look-up is about."""

from __future__ import annotations

import os

from autotune.errors import UnknownNameError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autotune.lookup.published import Published

DIGEST_LENGTH = 16
# The first stands in every container that was given a GPU, whichever it is, and in no other.
_NVIDIA_NODES = ("/dev/nvidiactl", "/dev/nvidia0")


class Target:
    """The device that a look-up is about.

    Attributes:
        kind: `cpu` or `cuda`.
        digest: of the device; None if the snapshot does not know it.
        stack: digest of this process's software stack for that kind of device.
        published: the snapshot, if one could be read.
    """

    __slots__ = ("digest", "kind", "published", "stack")

    def __init__(self, kind: str, digest: str | None, published: Published | None) -> None:
        self.kind = kind
        self.digest = digest
        self.stack = _stack_digest(kind)
        self.published = published

    @property
    def family(self) -> str | None:
        """The device's family, whose other members are similar; None if it is not known."""
        row = self.published.device(self.digest) if self.published and self.digest else None
        if row is not None:
            return str(row["family"])
        return _cpu_family() if self.kind == "cpu" else None

    @property
    def cores(self) -> int:
        """CPU cores that this process may use."""
        return int(_cpu_facts()["cores"])

    def facts(self) -> dict[str, Any]:
        """What `device.<fact>` means in an expression: as published, or as probed for the CPU."""
        facts = {**_cpu_facts(), "kind": self.kind}
        if self.kind != "cpu" and self.published and self.digest:
            import json

            row = self.published.device(self.digest)
            facts.update(json.loads(row["facts"]) if row else {})
        return facts


def check_device(device: Any) -> str | None:
    """The canonical name of a device: `cpu`, `cuda`, `cuda:<index>` or a digest; None if none was given.

    Args:
        device: such a name, or what prints like one (a `torch.device`).

    Raises:
        UnknownNameError: it is none of these.
    """
    if device is None:
        return None
    name = str(device)
    _, colon, index = name.partition(":")
    if name in ("cpu", "cuda") or (name.startswith("cuda:") and index.isascii() and index.isdigit()):
        return name
    if not colon and len(name) == DIGEST_LENGTH and not name.strip("0123456789abcdef"):
        return name
    raise UnknownNameError(
        "device", name, ["cpu", "cuda", "cuda:0", "a device digest (16 hexadecimal digits)"]
    )


def find_target(name: str | None, published: Published | None) -> Target:
    """The device behind a name.

    Without a name it is the host's accelerator, if the snapshot has one and this process can see it, else the
    CPU.

    Args:
        name: as `check_device` returns it.
        published: the snapshot, which knows the accelerators of this host; probing them would cost 100 ms.
    """
    accelerators = published.accelerators() if published and name != "cpu" else []
    if name == "cpu" or (name is None and not (accelerators and accelerator_visible())):
        return Target("cpu", _cpu_digest(), published)
    if name is None or name.startswith("cuda"):
        index = int(name.partition(":")[2] or 0) if name else 0
        return Target("cuda", _accelerator_digest(_host_index(index), accelerators), published)
    row = published.device(name) if published else None
    return Target(str(row["kind"]) if row else "cpu", name, published)


def requested_device(name: str | None, target: Target | None) -> str | None:
    """What a request to the daemon says of the device: a digest if known, else the name given.

    None stands for the daemon's default device: this process can see an accelerator, but nothing has been
    published for it yet.
    """
    if target is None or (name is None and target.kind == "cpu" and accelerator_visible()):
        return name
    return target.digest or name


def accelerator_visible() -> bool:
    """Whether this process can use an NVIDIA device."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    return any(map(os.path.exists, _NVIDIA_NODES))


def _host_index(index: int) -> int:
    """The host's number of this process's `index`-th device, as `CUDA_VISIBLE_DEVICES` maps it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    entry = visible[index].strip() if index < len(visible) else ""
    return int(entry) if entry.isascii() and entry.isdigit() else index


def _accelerator_digest(index: int, accelerators: list[tuple[int, str]]) -> str | None:
    """The digest of the host's `index`-th accelerator.

    Equal accelerators share one digest, published with the index of the first of them: so it is the last
    digest whose index is not above.
    """
    digests = [digest for first, digest in accelerators if first <= index]
    return digests[-1] if digests else None


def _cpu_digest() -> str:
    from autotune.fingerprint.cpu import cpu_digest

    return cpu_digest()


def _cpu_facts() -> dict[str, Any]:
    from autotune.fingerprint.cpu import cpu_facts

    return dict(cpu_facts())


def _cpu_family() -> str | None:
    return str(_cpu_facts()["family"])


def _stack_digest(kind: str) -> str:
    from autotune.fingerprint.stack import stack_digest

    return stack_digest(kind)
