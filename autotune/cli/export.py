"""`autotune export` and `autotune import`: winners in other formats, and what others found as a start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import bundle, export_optuna, options
from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from autotune.exports.files import ExportedFile
    from autotune.exports.winners import Winners
    from autotune.store import HistoryReader

app = typer.Typer(
    help="Write winners as other systems read them.", no_args_is_help=True, rich_markup_mode=None
)
importing = typer.Typer(
    help="Take other systems' files as a start for searches.", no_args_is_help=True, rich_markup_mode=None
)

app.command("bundle")(bundle.export_bundle)
app.command("optuna")(export_optuna.export_optuna)
importing.command("bundle")(bundle.import_bundle)
importing.command("list")(bundle.list_bundles)
importing.command("undo")(bundle.undo_bundle)

Folder = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to write; made if need be.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Digest, family or kind of the device whose winners are meant."),
]
DeviceName = Annotated[
    str | None,
    typer.Option("--device-name", help="The device's name as torch reports it, in place of the recorded."),
]
TritonVersion = Annotated[
    str | None, typer.Option("--triton-version", help="In place of the recorded one, e.g. 3.6.0.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that no export wrote, too.")]


@app.command("vllm-moe")
def vllm_moe(
    to: Folder,
    problem: options.Dimensions = None,
    device: Device = None,
    device_name: DeviceName = None,
    triton_version: TritonVersion = None,
    objective: options.Objective = "latency",
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write fused MoE winners for vLLM: set VLLM_TUNED_CONFIG_FOLDER to the folder."""
    from autotune.exports import moe

    def made(reader: HistoryReader, winners: Winners) -> Iterable[ExportedFile]:
        return moe.vllm_files(reader, winners, device_name, triton_version)

    told = _export(moe.WORKLOAD, to, problem, device, objective, force, made)
    _tell(told, json, f"set VLLM_TUNED_CONFIG_FOLDER={to.resolve()} where vLLM runs")


@app.command("sglang-moe")
def sglang_moe(
    to: Folder,
    problem: options.Dimensions = None,
    shipped: Annotated[
        Path | None,
        typer.Option(
            "--shipped",
            metavar="FOLDER",
            help="The folder 'configs' in SGLang's package, whose files are copied first.",
        ),
    ] = None,
    device: Device = None,
    device_name: DeviceName = None,
    triton_version: TritonVersion = None,
    objective: options.Objective = "latency",
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write fused MoE winners for SGLang: set SGLANG_MOE_CONFIG_DIR to the folder.

    The variable takes the place of the folder that SGLang ships, so give that with --shipped.
    """
    from autotune.exports import moe
    from autotune.exports.shipped import copy_shipped

    def made(reader: HistoryReader, winners: Winners) -> Iterable[ExportedFile]:
        files = list(moe.sglang_files(reader, winners, device_name, triton_version))
        if shipped is not None:
            copy_shipped(shipped, to / "configs", {file.path.removeprefix("configs/") for file in files})
        return files

    told = _export(moe.WORKLOAD, to, problem, device, objective, force, made)
    note = f"set SGLANG_MOE_CONFIG_DIR={to.resolve()} where SGLang runs"
    if shipped is None:
        note += "; it replaces the shipped folder, so shapes that are not here run untuned (see --shipped)"
    _tell(told, json, note)


@app.command("block-fp8")
def block_fp8(
    to: Folder,
    problem: options.Dimensions = None,
    system: Annotated[str, typer.Option("--for", help="Who reads the files: vllm or sglang.")] = "vllm",
    device: Device = None,
    device_name: DeviceName = None,
    objective: options.Objective = "latency",
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write winners of linear with float8 weights in blocks, for vLLM's or SGLang's own package folder."""
    from autotune.errors import UnknownNameError
    from autotune.exports import block_fp8 as format_

    if system not in format_.READERS:
        raise UnknownNameError("system", system, format_.READERS, "--for")

    def made(reader: HistoryReader, winners: Winners) -> Iterable[ExportedFile]:
        return format_.block_fp8_files(reader, winners, device_name, system)

    told = _export(format_.WORKLOAD, to, problem, device, objective, force, made)
    _tell(told, json, f"copy them into {format_.READERS[system].folder}; no variable names another folder")


@app.command()
def triton(
    workload: Annotated[str, typer.Argument(help="A workload with a Triton kernel.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE.py", help="The module to write.")],
    problem: options.Dimensions = None,
    device: Device = None,
    objective: options.Objective = "latency",
    module: options.Modules = None,
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write winners of a Triton kernel as a module of triton.Config, for code without autotune."""
    from autotune.exports.triton_configs import triton_module

    if to.suffix != ".py" or not to.stem.isidentifier():
        raise UsageError(f"--to {str(to)!r}: expected the name of a Python module, e.g. kernel_configs.py")
    options.import_modules(module)

    def made(_: HistoryReader, winners: Winners) -> Iterable[ExportedFile]:
        return [triton_module(workload, winners, _default(workload, winners), to.name)]

    told = _export(workload, to.parent, problem, device, objective, force, made)
    _tell(told, json, f"from {to.stem} import CONFIGS, DEFAULT, KEY")


@app.command("vllm-serve")
def vllm_serve(
    to: Folder,
    workload: Annotated[
        str | None, typer.Argument(help="A workload whose parameters are vLLM's options.")
    ] = None,
    problem: options.Dimensions = None,
    moe: Annotated[
        Path | None,
        typer.Option("--moe", metavar="FOLDER", help="What 'autotune export vllm-moe' wrote."),
    ] = None,
    generation: Annotated[
        int | None, typer.Option("--generation", min=1, help="Snapshot that all ranks are to read.")
    ] = None,
    device: Device = None,
    objective: options.Objective = "throughput",
    latency_limit: options.LatencyLimit = None,
    module: options.Modules = None,
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write vllm.yaml for 'vllm serve --config', and vllm.env for systemd's EnvironmentFile."""
    from autotune.exports.files import write_files
    from autotune.exports.vllm_serve import vllm_serve_files

    options.import_modules(module)
    goal = options.objective(objective, latency_limit)
    if moe is not None and not moe.is_dir():
        raise UsageError(f"--moe {str(moe)!r}: is not a folder; write it with 'autotune export vllm-moe'")
    folder = None if moe is None else moe.resolve()

    def files(winners: Winners | None) -> list[ExportedFile]:
        return list(vllm_serve_files(winners, moe_folder=folder, generation=generation))

    if workload is not None:
        told = _export(workload, to, problem, device, goal, force, lambda _, winners: files(winners))
    elif moe is None and generation is None:
        raise UsageError("nothing to write; name a workload, or give --moe FOLDER or --generation N")
    else:
        told = {"files": write_files(to, files(None), force=force)}
    _tell(told, json, "vllm serve --config vllm.yaml; EnvironmentFile=vllm.env")


@app.command("server")
def server(
    to: Folder,
    spec: options.Spec = None,
    variables: options.Variables = None,
    device: Device = None,
    objective: options.Objective = "throughput",
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write a server's winner: NAME.yaml for its --config, and NAME.env for systemd's EnvironmentFile."""
    from autotune.exports.server import server_files
    from autotune.server.spec import load_spec

    if spec is None:
        raise UsageError("give --spec FILE.toml, the one that was tuned")
    read = load_spec(spec, options.variables(variables))
    name = read.sections.name

    def made(_: HistoryReader, winners: Winners) -> Iterable[ExportedFile]:
        return server_files(winners, read)

    problem = [f"{key}={value}" for key, value in read.problem.dimensions.items()]
    told = _export(read.problem.workload, to, problem, device, objective, force, made)
    _tell(told, json, f"start the server with --config {name}.yaml, or with EnvironmentFile={name}.env")


@app.command("kernel-tuner")
def kernel_tuner(
    study: Annotated[int, typer.Argument(help="A study's number; see 'autotune history'.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="*.json or *.json.gz.")],
    t4: Annotated[bool, typer.Option("--t4", help="In the T4 results schema in place of a cache.")] = False,
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Write a study's trials as a Kernel Tuner cache, or in the T4 results schema."""
    from autotune.exports import kernel_tuner as format_
    from autotune.exports.files import replace_content
    from autotune.store import read_history

    if not to.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--to {str(to)!r}: expected a name that ends in .json or .json.gz")
    if to.exists() and not force:
        raise UsageError(f"--to {str(to)!r}: is there already; give another name, or --force")
    with read_history() as reader:
        entry, trials = reader.study(study), reader.trials(study)
        device = reader.device(entry.key.device)
    if t4:
        text = format_.t4_text(entry, trials)
    else:
        text = format_.cache_text(entry, trials, device.name if device else entry.key.device)
    replace_content(to, format_.compressed(text) if to.suffix == ".gz" else text.encode())
    _tell({"files": [to], "trials": len(trials)}, json, "")


@importing.command("vllm-moe")
def import_vllm_moe(
    file: Annotated[Path, typer.Argument(help="E=...,N=...,device_name=....json")],
    problem: options.Dimensions = None,
    json: options.Json = False,
) -> None:
    """Take the configurations of a tuned fused MoE file (vLLM's or SGLang's) as candidates.

    The name does not say everything: give -p hidden=7168,top_k=8.
    """
    from autotune.exports.imports import read_moe_table
    from autotune.workloads.registry import declaration

    imports = read_moe_table(file, declaration("fused_moe"), options.dimensions(problem))
    _keep(imports, json, f"{len(imports)} candidates, one for each batch size")


@importing.command("kernel-tuner")
def import_kernel_tuner(
    file: Annotated[Path, typer.Argument(help="A Kernel Tuner cache, *.json or *.json.gz.")],
    workload: Annotated[str, typer.Argument(help="The workload that it is taken to be of.")],
    problem: options.Dimensions = None,
    device: options.DeviceName = None,
    module: options.Modules = None,
    json: options.Json = False,
) -> None:
    """Take the measurements of a Kernel Tuner cache as an earlier study of a problem."""
    from autotune.exports.imports import read_kernel_tuner
    from autotune.fingerprint import device_named
    from autotune.workloads.registry import declaration

    options.import_modules(module)
    wanted = options.problem(workload, problem)
    imported = read_kernel_tuner(file, wanted, declaration(workload), device_named(device))
    measured = sum(value is not None for value in imported.values)
    _keep([imported], json, f"{measured} measured configurations of {len(imported.values)}")


@importing.command("triton-autotune")
def import_triton_autotune(
    kernel: Annotated[str, typer.Argument(help="A kernel under @autotune.tuned, by its workload's name.")],
    file: Annotated[
        Path | None, typer.Argument(help="What autotune.listen() wrote; its usual file by default.")
    ] = None,
    module: options.Modules = None,
    json: options.Json = False,
) -> None:
    """Take what @triton.autotune found of a kernel elsewhere, as autotune.listen() recorded it."""
    from autotune.errors import UnknownNameError
    from autotune.exports.imports import read_findings
    from autotune.lookup.listening import listen_path
    from autotune.lookup.tuned import kernel_named, kernel_names
    from autotune.workloads.registry import declaration

    options.import_modules(module)
    known = kernel_named(kernel)
    if known is None:
        raise UnknownNameError("kernel under @autotune.tuned", kernel, kernel_names(), "see --module")
    imports = read_findings(file or Path(listen_path()), known, declaration(kernel))
    _keep(imports, json, f"{len(imports)} findings of {kernel}")


def _export(
    workload: str,
    folder: Path,
    problem: list[str] | None,
    device: str | None,
    objective: str,
    force: bool,
    made: Callable[[HistoryReader, Winners], Iterable[ExportedFile]],
) -> dict[str, Any]:
    """Write what `made` makes of the winners; returns what to tell."""
    from autotune.exports.files import write_files
    from autotune.exports.winners import current_winners
    from autotune.store import read_history

    dimensions = options.dimensions(problem)
    with read_history() as reader:
        winners = current_winners(reader, workload, dimensions, objective=objective, device=device)
        files = list(made(reader, winners))
    return {
        "files": write_files(folder, files, force=force),
        "device": winners.device.name,
        "stack": winners.stack.digest,
        "tuned": sum(int(file.provenance.get("tuned", 0)) for file in files),
        "pinned": sum(
            origin.get("from") == "default"
            for file in files
            for origin in file.provenance.get("rows", {}).values()
        ),
        "other_stacks": winners.other_stacks,
    }


def _default(workload: str, winners: Winners) -> dict[str, Any]:
    """The baseline's configuration of the first winner's problem; empty where it is not known here."""
    from autotune.errors import AutotuneError
    from autotune.space import SearchSpace
    from autotune.workloads.registry import declaration

    try:
        declared = declaration(workload)
        problem = declared.problem(winners.decisions[0].winner.dimensions)
        return SearchSpace.build(declared, problem, winners.device.facts).baseline
    except AutotuneError:
        return {}


def _keep(imports: list[Any], json: bool, what: str) -> None:
    from autotune import paths
    from autotune.cli import output
    from autotune.cli.writing import by_daemon
    from autotune.daemon.control import KeepImports
    from autotune.errors import StateDirError
    from autotune.search.imported import encoded, keep
    from autotune.store.statedir import prepare

    try:
        state = prepare(paths.state_dir())
        try:
            kept = [keep(state.path, imported) for imported in imports]
        except OSError as error:
            raise StateDirError(f"{state.path}: cannot be written: {error.strerror}") from None
    except StateDirError as error:
        kept = by_daemon(KeepImports, error, encoded(imports))["imports"]
    if json:
        output.print_json({"imports": kept})
    else:
        output.console.print(f"imported {what}; the next search of such a problem starts from them")


def _tell(told: dict[str, Any], json: bool, note: str) -> None:
    from autotune.cli import output

    if json:
        output.print_json({**told, "files": [str(path) for path in told["files"]]})
        return
    for path in told["files"]:
        output.console.print(str(path), soft_wrap=True)
    if told.get("tuned"):
        pinned = f"; {told['pinned']} rows hold that system's own default" if told["pinned"] else ""
        output.console.print(f"{told['tuned']} winners on {told['device']}{pinned}")
    elif told.get("pinned"):
        output.console.print(
            f"no winner could be written: all {told['pinned']} rows hold that system's default"
        )
    if told.get("other_stacks"):
        output.console.print(f"{told['other_stacks']} winners of other software stacks were left out")
    if note:
        output.console.print(note, soft_wrap=True)
