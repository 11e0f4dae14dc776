"""`@autotune.tuned`: in the place of `@triton.autotune`, with configurations looked up and never benchmarked.

    @autotune.tuned(configs=[triton.Config({"BLOCK": 128}), ...], key=["n"])
    @triton.jit
    def kernel(x, y, n, BLOCK: tl.constexpr): ...

    kernel[grid](x, y, n)

The first launch for a key (the values of the arguments named in `key`, and the types of all tensors) asks
`get_best_config`; later ones look into a dictionary. What is not tuned runs with the default, and the daemon
hears of it. Neither triton nor torch is imported here.
"""

from __future__ import annotations

import inspect

from autotune.errors import UnknownNameError, UsageError
from autotune.lookup.warning import warn_once
from autotune.space.declared import declare
from autotune.space.problem import Dimension

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

IMPLEMENTATION = "triton"
DTYPE = "dtype"
MOST_KEYS = 4096
"""Keys whose choice is remembered: batch sizes of a server are many, but bounded."""
LONGEST_TEXT = 64
"""Characters of a dimension's value; a request to the daemon takes no more."""

OPTIONS = {"num_warps": 4, "num_stages": 3, "num_ctas": 1, "maxnreg": 0}
"""What `triton.Config` sets beside a kernel's constants, with its defaults; 0 for a `maxnreg` of None."""

RARE = ("num_ctas", "maxnreg")
"""Options that a configuration holds only where one of a kernel's configs sets them."""

BENCHMARKING = frozenset(
    {"pre_hook", "post_hook", "warmup", "rep", "use_cuda_graph", "do_bench", "cache_results"}
)
"""Arguments of `triton.autotune` that concern its benchmarks, of which there are none here."""

_kernels: dict[str, TunedKernel] = {}


class TunedKernel:
    """A Triton kernel whose configuration is looked up at the first launch for each key.

    Attributes:
        fn: what `triton.jit` made, or a decorator of Triton's around it.
        name: of the workload.
        configs: by what a configuration of the workload holds.
        default: what runs where nothing is known.
        unused: options that none of the configs sets.
        keys: names of the arguments whose values make a problem.
        dtype_name: dimension that holds the tensors' types.
        recipe: what tuning needs beside.
    """

    def __init__(
        self,
        fn: Any,
        name: str,
        configs: Sequence[Any],
        keys: Sequence[str],
        default: Any,
        nearest: Iterable[str],
        recipe: Recipe,
        *,
        objective: str,
        max_error: float | None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.arg_names = list(fn.arg_names)
        self.keys = tuple(keys)
        self.recipe = recipe
        self.base_fn = _function(fn)
        self.__name__, self.__doc__ = self.base_fn.__name__, self.base_fn.__doc__
        _check_arguments(name, self.arg_names, {"key": keys, **recipe.named()})
        self._positions = [self.arg_names.index(key) for key in self.keys]
        self.default = default
        self.configs = {_identity(settings_of(config)): config for config in [default, *configs]}
        self.dtype_name = DTYPE if DTYPE not in keys else f"{DTYPE}s"
        self._objective, self._max_error = objective, max_error
        self._chosen: dict[tuple[Any, ...], Any] = {}
        nearest = frozenset(nearest)
        for one in sorted(nearest - set(keys)):
            raise UnknownNameError(f"key of {name}", one, keys, "nearest")
        self.dimensions = [
            Dimension(key, minimum=0, nearest=True) if key in nearest else Dimension(key, text=True)
            for key in keys
        ]
        self.dimensions.append(Dimension(self.dtype_name, text=True))
        everywhere = [settings_of(config) for config in self.configs.values()]
        self.unused = {name for name in RARE if all(one[name] == OPTIONS[name] for one in everywhere)}
        self.baseline = {"implementation": IMPLEMENTATION, **self.settings(default)}
        declare(name, self.dimensions, self.baseline)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """The launch over a grid, which may be a function of the arguments and constants."""
        return lambda *args, **kwargs: self.run(*args, grid=grid, warmup=False, **kwargs)

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        """Launch with the configuration of these arguments."""
        config = self.config(*args, **kwargs)
        if config.pre_hook is not None:
            config.pre_hook(self.arguments(args, kwargs, config))
        return self.fn.run(*args, grid=grid, warmup=warmup, **kwargs, **config.all_kwargs())

    def warmup(self, *args: Any, grid: Any, **kwargs: Any) -> Any:
        """Compile for these arguments without launching."""
        config = self.config(*args, **kwargs)
        return self.fn.warmup(*args, grid=grid, **kwargs, **config.all_kwargs())

    def config(self, *args: Any, **kwargs: Any) -> Any:
        """The `triton.Config` that these arguments are launched with."""
        key = self._key(args, kwargs)
        try:
            return self._chosen[key]
        except (KeyError, TypeError):  # not asked before, or a value without a hash
            pass
        config = self._look_up(args, kwargs)
        try:
            self._chosen[key] = config
        except TypeError:
            return config
        if len(self._chosen) > MOST_KEYS:
            self._chosen.pop(next(iter(self._chosen)), None)
        return config

    def refresh(self) -> None:
        """Look up anew at the next launch: what was tuned since holds then."""
        self._chosen.clear()

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """All arguments and constants by name, as grids and hooks take them."""
        return {**dict(zip(self.arg_names, args, strict=False)), **kwargs, **config.all_kwargs()}

    def config_of(self, configuration: Mapping[str, Any]) -> Any:
        """The `triton.Config` of a configuration; None if this kernel has no such one any more."""
        settings = {name: value for name, value in configuration.items() if name != "implementation"}
        return self.configs.get(_identity({**OPTIONS, **settings}))

    def settings(self, config: Any) -> dict[str, Any]:
        """What a configuration of the workload holds for a `triton.Config`."""
        return {name: value for name, value in settings_of(config).items() if name not in self.unused}

    def problem(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The dimensions that these arguments make."""
        given = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        dimensions = {key: plain(given.get(key)) for key in self.keys}
        types = [dtype_name(value) for value in self._in_order(given) if hasattr(value, "dtype")]
        dimensions[self.dtype_name] = joined(types)
        return dimensions

    def _in_order(self, given: Mapping[str, Any]) -> list[Any]:
        return [given[name] for name in self.arg_names if name in given]

    def _key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        if kwargs:
            given = dict(zip(self.arg_names, args, strict=False))
            given.update(kwargs)
            key: list[Any] = [given.get(name) for name in self.keys]
            args = self._in_order(given)
        else:
            key = [args[i] if i < len(args) else None for i in self._positions]
        for value in args:
            if type(value) is not int and (dtype := getattr(value, "dtype", None)) is not None:
                key += (dtype, value.device)
        return tuple(key)

    def _look_up(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What was proven for these arguments; whatever happens, the default where that is not known."""
        from autotune.client import get_best_config

        try:
            best = get_best_config(
                self.name,
                objective=self._objective,
                max_error=self._max_error,
                device=_device([*args, *kwargs.values()]),
                **self.problem(args, kwargs),
            )
            found = self.config_of(best)
        except Exception as error:
            warn_once(f"kernel {self.name}", f"kernel {self.name}: {error}; launching with its default")
            return self.default
        return self.default if found is None else found


class Recipe:
    """What tuning a kernel needs beside what launching it does.

    Args:
        inputs: `(problem, draw)` to the arguments by name, tensors and numbers; `draw(*shape, dtype=...)` is
            normal random numbers, `draw.empty(*shape, dtype=...)` a tensor to be written.
        reference: `(problem, *tensors)` to the outputs in higher precision; the tensors that are not only
            written, in the order of `inputs`.
        outputs: arguments that the kernel writes.
        grid: as launches take it.
        reset_to_zero: outputs that must be zero before.
        restore_value: arguments that are read and written.
        constraints: further ones over arguments in `key` and constants.
        flops: of a problem.
    """

    def __init__(
        self,
        inputs: Callable[..., Mapping[str, Any]] | None,
        reference: Callable[..., Any] | None,
        outputs: Sequence[str],
        grid: Any,
        reset_to_zero: Sequence[str],
        restore_value: Sequence[str],
        constraints: Mapping[str, str],
        flops: Callable[[Any], int],
    ) -> None:
        self.inputs, self.reference, self.grid, self.flops = inputs, reference, grid, flops
        self.reset_to_zero, self.restore_value = tuple(reset_to_zero), tuple(restore_value)
        self.outputs = tuple(dict.fromkeys([*outputs, *reset_to_zero, *restore_value]))
        self.constraints = dict(constraints)

    @property
    def missing(self) -> list[str]:
        """Arguments of `tuned` without which a kernel can only be looked up."""
        needed = {
            "inputs": self.inputs,
            "reference": self.reference,
            "outputs": self.outputs,
            "grid": self.grid,
        }
        return [name for name, value in needed.items() if not value]

    def named(self) -> dict[str, Sequence[str]]:
        """Lists of arguments' names, by the argument that holds them."""
        return {
            "outputs": self.outputs,
            "reset_to_zero": self.reset_to_zero,
            "restore_value": self.restore_value,
        }


def tuned(
    *,
    configs: Sequence[Any],
    key: Sequence[str],
    default: Any = None,
    name: str | None = None,
    nearest: Iterable[str] = (),
    reset_to_zero: Sequence[str] | None = None,
    restore_value: Sequence[str] | None = None,
    inputs: Callable[..., Mapping[str, Any]] | None = None,
    reference: Callable[..., Any] | None = None,
    outputs: Sequence[str] = (),
    grid: Any = None,
    constraints: Mapping[str, str] | None = None,
    flops: Callable[[Any], int] = lambda _: 0,
    objective: str = "latency",
    max_error: float | None = None,
    **others: Any,
) -> Callable[[Any], TunedKernel]:
    """Launch a Triton kernel with what was proven best on this machine, in place of `@triton.autotune`.

    Args:
        configs: those that may be launched: `triton.Config`.
        key: arguments whose values make a problem; the types of tensors do too.
        default: what is launched where nothing is known; the first of `configs` by default.
        name: of the workload, by which it is tuned; the function's by default.
        nearest: arguments in `key` of which a winner at another value is a good guess, such as a batch size.
        reset_to_zero: as `triton.autotune` has it; these are outputs.
        restore_value: as `triton.autotune` has it; these are outputs.
        inputs: see `Recipe`; without this and the following, the kernel can be looked up but not tuned.
        reference: see `Recipe`.
        outputs: see `Recipe`.
        grid: see `Recipe`.
        constraints: name to expression that a configuration must satisfy for a problem.
        flops: operations that a problem cannot avoid, for the roofline.
        objective: that winners are looked up for.
        max_error: relative error that is acceptable.
        **others: arguments of `triton.autotune` that have no meaning here, to be refused.

    Raises:
        UsageError: an argument is not one of `triton.autotune`'s that can be taken over, or names no argument
            of the kernel, or the workload's name is taken.
    """
    _refuse(others)
    if not configs:
        raise UsageError("autotune.tuned: configs is empty; give at least one triton.Config")
    recipe = Recipe(
        inputs,
        reference,
        outputs,
        grid,
        reset_to_zero or (),
        restore_value or (),
        constraints or {},
        flops,
    )

    def decorate(fn: Any) -> TunedKernel:
        if not hasattr(fn, "run") or not hasattr(fn, "arg_names"):
            what = getattr(fn, "__name__", repr(fn))
            raise UsageError(f"autotune.tuned: {what} is no Triton kernel; put it above @triton.jit")
        kernel = TunedKernel(
            fn,
            name or _function(fn).__name__,
            configs,
            key,
            configs[0] if default is None else default,
            nearest,
            recipe,
            objective=objective,
            max_error=max_error,
        )
        _register(kernel)
        return kernel

    return decorate


def kernel_named(name: str) -> TunedKernel | None:
    """The kernel of a workload's name, if one was decorated in this process."""
    return _kernels.get(name)


def kernel_names() -> list[str]:
    """Names of all kernels decorated in this process."""
    return sorted(_kernels)


def settings_of(config: Any) -> dict[str, Any]:
    """The constants and options of a `triton.Config` as a configuration holds them.

    Raises:
        UsageError: it has what a configuration cannot hold.
    """
    if getattr(config, "ir_override", None):
        raise UsageError("autotune.tuned: a triton.Config with ir_override cannot be tuned")
    settings = dict(config.kwargs)
    for name, value in settings.items():
        if not isinstance(value, bool | int | float | str):
            raise UsageError(
                f"autotune.tuned: {name}={value!r} in a triton.Config is no number, boolean or text"
            )
    for name, usual in OPTIONS.items():
        value = getattr(config, name, None)
        settings[name] = usual if value is None else value
    return settings


def joined(types: Sequence[str]) -> str:
    """The types of all tensors as one word: just one where all agree."""
    text = types[0] if types and len(set(types)) == 1 else "-".join(types) or "none"
    if len(text) <= LONGEST_TEXT:
        return text
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:16]


def dtype_name(value: Any) -> str:
    """What a tensor's type is called: `float16`."""
    return str(value.dtype).removeprefix("torch.")


def plain(value: Any) -> int | str:
    """An argument as a dimension: a whole number, or text."""
    if isinstance(value, int):
        return int(value)
    text = str(value).removeprefix("torch.")
    return "".join(c if c.isalnum() or c in "_.+-" else "_" for c in text)[:LONGEST_TEXT] or "_"


def _register(kernel: TunedKernel) -> None:
    """Make a kernel known by its name, of which there is one, however often its module is loaded."""
    known = _kernels.get(kernel.name)
    places = [(k.base_fn.__code__.co_filename, k.base_fn.__qualname__) for k in (known, kernel) if k]
    if len(set(places)) > 1:
        raise UsageError(
            f"autotune.tuned: two kernels are called {kernel.name!r}, in {places[0][0]} and {places[1][0]}; "
            "give one of them name=..."
        )
    _kernels[kernel.name] = kernel


def _refuse(others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if name == "prune_configs_by":
            if value is not None:
                raise UsageError(
                    "autotune.tuned: prune_configs_by chooses what to benchmark at launch, and nothing is; "
                    "write what rules a configuration out as constraints={'name': 'expression'}"
                )
        elif name not in BENCHMARKING:
            raise UnknownNameError("argument of autotune.tuned", name, inspect.signature(tuned).parameters)
        elif value:
            raise UsageError(
                f"autotune.tuned: {name} is for benchmarks at launch, and there are none; remove it"
            )


def _check_arguments(kernel: str, arguments: Sequence[str], named: Mapping[str, Sequence[str]]) -> None:
    for where, names in named.items():
        for name in names:
            if name not in arguments:
                raise UnknownNameError(f"argument of kernel {kernel}", name, arguments, where)


def _function(fn: Any) -> Any:
    """The Python function under Triton's decorators."""
    while not inspect.isfunction(fn):
        fn = fn.fn
    return fn


def _identity(settings: Mapping[str, Any]) -> frozenset[tuple[str, bool, Any]]:
    return frozenset((name, isinstance(value, bool), value) for name, value in settings.items())


def _device(values: Iterable[Any]) -> str | None:
    """The device of the first tensor, as look-ups name it; None where that is left to them."""
    for value in values:
        device = getattr(value, "device", None)
        if device is not None and getattr(device, "type", None) in ("cpu", "cuda"):
            return str(device) if device.type == "cuda" else "cpu"
    return None
