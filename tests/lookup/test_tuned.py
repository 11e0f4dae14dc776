"""`@autotune.tuned`: which configuration a launch gets, what is refused, and what tuning is told of it."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import autotune
from autotune.errors import UnknownNameError, UsageError
from autotune.fingerprint import named_device
from autotune.lookup import tuned as module
from autotune.space import SearchSpace
from autotune.workloads import registry


class Config:
    """What `triton.Config` is, as far as it is used."""

    def __init__(self, kwargs, num_warps=4, num_stages=3, num_ctas=1, maxnreg=None, pre_hook=None):
        self.kwargs, self.num_warps, self.num_stages = kwargs, num_warps, num_stages
        self.num_ctas, self.maxnreg, self.pre_hook, self.ir_override = num_ctas, maxnreg, pre_hook, None

    def all_kwargs(self):
        options = {"num_warps": self.num_warps, "num_ctas": self.num_ctas, "num_stages": self.num_stages}
        return {**self.kwargs, **options, **({"maxnreg": self.maxnreg} if self.maxnreg else {})}


class Jit:
    """What `triton.jit` makes, but that launches are only noted."""

    def __init__(self, fn):
        self.fn = fn
        self.arg_names = list(fn.__code__.co_varnames[: fn.__code__.co_argcount])
        self.launches = []

    def run(self, *args, grid, warmup, **kwargs):
        meta = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        self.launches.append((grid(meta) if callable(grid) else grid, warmup, kwargs))


CONFIGS = [Config({"BLOCK": 64}), Config({"BLOCK": 128}, num_warps=8), Config({"BLOCK": 256}, num_stages=4)]


class Device(NamedTuple):
    type: str


def tensor(dtype: str = "torch.float16", device: str = "cpu"):
    return SimpleNamespace(dtype=dtype, device=Device(device))


def kernel(x, n, BLOCK):  # noqa: N803 - as Triton users write
    """Adds."""


_names = (f"kernel_{number}" for number in itertools.count())


def make(**arguments):
    arguments = {"configs": CONFIGS, "key": ["n"], "name": next(_names), **arguments}
    return autotune.tuned(**arguments)(Jit(kernel))


def configuration(config) -> dict:
    return {
        "implementation": "triton",
        **config.kwargs,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


def publish(node, made, n: int, config, dtype: str = "float16", **values):
    problem = f"n={n},dtype={dtype}"
    node.publish(
        node.choice(
            workload=made.name,
            problem=problem,
            neighbourhood=f"dtype={dtype}" if made.dimensions[0].nearest else problem,
            dimensions=json.dumps({"n": n, "dtype": dtype}),
            configuration=configuration(config),
            **values,
        )
    )


def test_the_first_config_is_the_default(node) -> None:
    made = make()
    made[(7,)](tensor(), 100)
    assert [((7,), False, CONFIGS[0].all_kwargs())] == made.fn.launches


def test_another_default_can_be_given(node) -> None:
    """Even one that is not among the configurations."""
    other = Config({"BLOCK": 512})
    made = make(default=other)
    assert other is made.config(tensor(), 100)
    assert {"implementation": "triton", "BLOCK": 512, "num_warps": 4, "num_stages": 3} == made.baseline


def test_what_was_proven_is_launched_with_a_grid_of_its_constants(node) -> None:
    made = make()
    publish(node, made, 100, CONFIGS[1])
    made[lambda meta: (meta["n"] // meta["BLOCK"],)](tensor(), n=100)
    assert [((0,), False, {"n": 100, **CONFIGS[1].all_kwargs()})] == made.fn.launches


def test_the_types_of_tensors_are_part_of_the_key(node) -> None:
    made = make()
    publish(node, made, 100, CONFIGS[1])
    assert CONFIGS[1] is made.config(tensor(), 100)
    assert CONFIGS[0] is made.config(tensor("torch.float32"), 100)


def test_a_neighbour_counts_where_its_key_says_so(node) -> None:
    made = make(nearest=["n"])
    publish(node, made, 100, CONFIGS[2])
    assert CONFIGS[2] is made.config(tensor(), 120)


def test_a_choice_stays_until_it_is_asked_for_anew(node) -> None:
    """A new generation changes no kernel in the middle of serving."""
    made = make()
    assert CONFIGS[0] is made.config(tensor(), 100)
    publish(node, made, 100, CONFIGS[1])
    autotune.refresh()
    assert CONFIGS[0] is made.config(tensor(), 100)
    made.refresh()
    assert CONFIGS[1] is made.config(tensor(), 100)


def test_keys_that_are_remembered_are_bounded(node, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_KEYS", 3)
    made = make()
    for n in range(10):
        made.config(tensor(), n)
    assert 3 == len(made._chosen)


def test_a_configuration_that_the_kernel_has_no_more_is_passed_over(node) -> None:
    made = make()
    publish(node, made, 100, Config({"BLOCK": 4096}))
    assert CONFIGS[0] is made.config(tensor(), 100)


@pytest.mark.parametrize("value", [None, 2.5, (1, 2), "a=b,c", object(), -3, True, 2**70])
def test_no_value_of_a_key_fails_a_launch(node, value) -> None:
    assert CONFIGS[0] is make().config(tensor(), value)


@pytest.mark.filterwarnings("ignore:autotune")
def test_no_state_of_the_disk_fails_a_launch(node) -> None:
    made = make()
    node.best_db.write_bytes(b"no database")
    assert CONFIGS[0] is made.config(tensor(), 100)


def test_a_miss_is_sent_to_the_daemon(node, tmp_path, monkeypatch) -> None:
    path = str(tmp_path / "requests.sock")
    monkeypatch.setenv("AUTOTUNE_REQUEST_SOCKET", path)
    made = make()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as daemon:
        daemon.bind(path)
        made.config(tensor(), 100)
        told = json.loads(daemon.recv(65536))
    assert (made.name, {"n": 100, "dtype": "float16"}) == (told["workload"], told["problem"])


def test_a_hook_of_a_config_is_called_with_all_arguments(node) -> None:
    """TMA descriptors get their block from it."""
    seen: list[dict] = []
    made = make(configs=[Config({"BLOCK": 64}, pre_hook=seen.append)])
    made[(1,)](tensor(), 100)
    assert (100, 64) == (seen[0]["n"], seen[0]["BLOCK"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": ["m"]}, "key: unknown argument of kernel"),
        ({"configs": []}, "configs is empty"),
        ({"nearest": ["m"]}, "nearest: unknown key"),
        ({"outputs": ["y"]}, "outputs: unknown argument of kernel"),
        ({"prune_configs_by": {"top_k": 1}}, "write what rules a configuration out as constraints="),
        ({"warmup": 10}, "there are none; remove it"),
        ({"keys": ["n"]}, "did you mean key"),
        ({"name": "linear"}, "ships with autotune; choose another name"),
        ({"configs": [Config({"BLOCK": [64]})]}, "is no number, boolean or text"),
    ],
)
def test_mistakes_are_told_when_the_kernel_is_made(node, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        make(**arguments)


def test_arguments_of_triton_without_effect_are_taken(node) -> None:
    assert make(prune_configs_by=None, warmup=None, use_cuda_graph=False, reset_to_zero=["x"])


def test_it_stands_above_jit(node) -> None:
    with pytest.raises(UsageError, match=r"put it above @triton\.jit"):
        autotune.tuned(configs=CONFIGS, key=["n"])(kernel)


def test_two_kernels_of_one_name_are_told_apart(node) -> None:
    def other(x, n, BLOCK):  # noqa: N803
        pass

    make(name="shared_name")
    make(name="shared_name")
    with pytest.raises(UsageError, match="two kernels are called 'shared_name'"):
        autotune.tuned(configs=CONFIGS, key=["n"], name="shared_name")(Jit(other))


def test_the_space_holds_the_configs_and_no_other(node) -> None:
    made = make(constraints={"not_beyond": "BLOCK <= n or BLOCK == 64"})
    declared = registry.declaration(made.name)
    device = named_device("nvidia-h200")

    def configurations(n: int) -> list[dict]:
        space = SearchSpace.build(declared, declared.problem({"n": n, "dtype": "float16"}), device.facts)
        return [space.pool.configuration(row) for row in range(len(space))]

    assert [configuration(config) for config in CONFIGS] == configurations(1024)
    assert [configuration(CONFIGS[0])] == configurations(100)


def test_options_that_are_used_are_parameters(node) -> None:
    made = make(configs=[Config({"BLOCK": 64}), Config({"BLOCK": 64}, maxnreg=128)])
    declared = registry.declaration(made.name)
    assert (0, 128) == tuple(declared.implementations["triton"].parameters["maxnreg"])
    assert 128 == made.config_of({"BLOCK": 64, "num_warps": 4, "num_stages": 3, "maxnreg": 128}).maxnreg


def test_without_inputs_it_can_only_be_looked_up(node) -> None:
    made = make()
    assert ["n", "dtype"] == list(registry.declaration(made.name).dimensions)
    with pytest.raises(
        UsageError, match=r"can only be looked up: to tune it, give @autotune\.tuned inputs=, ref"
    ):
        registry.workload(made.name)


def test_a_constant_must_stand_in_all_configs(node) -> None:
    made = make(configs=[Config({"BLOCK": 64}), Config({"BLOCK": 64, "SPLIT": 2})])
    with pytest.raises(UsageError, match="'SPLIT' stands in some of its configs"):
        registry.declaration(made.name)


def test_text_among_dimensions(node) -> None:
    """Words and whole numbers; nothing that a problem's key would be torn by."""
    declared = registry.declaration(make().name)
    assert {"n": -3, "dtype": "float16-int8"} == declared.problem(
        {"n": "-3", "dtype": "float16-int8"}
    ).dimensions
    with pytest.raises(UsageError, match="is no word"):
        declared.problem({"n": "a,b=c", "dtype": "float16"})


def test_nothing_heavy_is_imported_to_launch() -> None:
    """Neither torch nor triton nor numpy comes with it: the base install has no dependency."""
    script = (
        "import sys, autotune; autotune.tuned, autotune.listen\n"
        "print({'torch', 'triton', 'numpy', 'msgspec'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "set()\n" == done.stdout


def test_unknown_kernels_are_named(node) -> None:
    made = make()
    with pytest.raises(UnknownNameError, match=f"did you mean {made.name}"):
        registry.declaration(f"{made.name}x")
