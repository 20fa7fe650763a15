"""The command `slipway`: it parses, calls, and turns every error into one line and an exit code.

Exit codes: 0 done; 1 failed, the line on stderr says why; 2 wrong usage; 3 refused: the model lost accuracy, or a plan
is in another precision; 4 this machine lacks what is needed; 5 no GPU is here; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib.metadata
import json
import math
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

app = typer.Typer(
    help="From a PyTorch model to a tuned Triton deployment.",
    no_args_is_help=True,
    invoke_without_command=True,  # for --version
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Number = TypeVar("Number", int, float)
DEFAULT_URL = "http://127.0.0.1:8000"
MANY = 100_000  # objects that are new before the collector looks through them: imports make a million that stay


def main() -> None:
    """Entry point."""
    gc.set_threshold(MANY)
    try:
        app()
    finally:
        gc.freeze()  # the modules end with the process: taking them apart first would take a second


class Failure(Exception):
    """Ends the command with a line on stderr and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an expected error as one line and exit with its code."""
    try:
        yield
    except Failure as error:
        err.print(f"error: {error}", markup=False)
        raise typer.Exit(error.code) from error
    except KeyboardInterrupt as error:
        err.print("interrupted")
        raise typer.Exit(128 + signal.SIGINT) from error
    except typer.Exit:
        raise
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="slipway-error-", suffix=".log", delete=False) as log:
            log.write(traceback.format_exc())
        reason = " ".join(str(error).split())[:300]
        err.print(
            f"error: unexpected {type(error).__name__}: {reason} (please report it with {log.name})", markup=False
        )
        raise typer.Exit(1) from error


def workspace() -> Path:
    """The folder with dvc.yaml: the current one or the nearest above it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "model_build" / "conf").is_dir():
            return folder
    raise Failure(
        f"{here} is not inside a Slipway workspace (a folder with dvc.yaml and model_build/conf): go there first"
    )


def _table(rows: Sequence[Sequence[str]], header: bool = True) -> Table:
    """Rows as a table, the first of them its header."""
    first, *lines = rows if header else [[""] * len(rows[0]), *rows]
    columns = [Column(name, overflow="fold") for name in first]
    columns[0].min_width = min(24, max(len(row[0]) for row in rows))  # of names, that a narrow terminal would cut up
    table = Table(*columns, box=None, pad_edge=False, show_header=header)
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _print_json(value: Any) -> None:
    """Print strict JSON, null where a number is NaN or infinite; Rich would take 10 s for 1,000 embeddings."""
    typer.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _whole_numbers(given: str, option: str) -> tuple[int, ...]:
    """What was given as 1,8,32."""
    try:
        return tuple(int(one) for one in given.split(","))
    except ValueError as error:
        raise Failure(f"{option} {given}: expected whole numbers separated by commas", 2) from error


def _pairs(given: list[str] | None, option: str, kind: type[Number]) -> dict[str, Number]:
    """What was given as NAME=VALUE."""
    found = {}
    for one in given or []:
        name, _, value = one.partition("=")
        try:
            found[name] = kind(value)
        except ValueError as error:
            expected = "a whole number" if kind is int else "a number"
            raise Failure(f"{option} {one}: expected NAME=VALUE with {expected}", 2) from error
    return found


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(f"slipway {importlib.metadata.version('slipway')}")
        raise typer.Exit


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="Name of a configuration in model_build/conf/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, kept in the configuration: train.epochs=5 seed=7")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run every stage, also those that are not stale.")] = False,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Layer that INT8 keeps in FP32, again for each; none of them: 'none'."),
    ] = None,
) -> None:
    """Train, export, quantise, gate and write the model's folders of model_repository/: whatever of it is stale."""
    with one_line_errors():
        sys.path.insert(0, str(root := workspace()))  # recipes are this workspace's, as they are in its stages
        from model_build import BuildError
        from model_build.pipeline import StageFailed
        from model_build.pipeline import build as run

        kept = [] if keep_fp32 == ["none"] else keep_fp32
        quoted = ("'" + one.replace("'", "\\'") + "'" for one in kept or [])  # names hold what Hydra's grammar does not
        more = [] if kept is None else [f"precision.int8.keep_fp32=[{','.join(quoted)}]"]
        try:
            ran = run(root, model, [*(overrides or []), *more], force)
        except StageFailed as error:
            raise Failure(str(error), error.code if error.code > 0 else 128 - error.code) from error
        except (BuildError, OSError) as error:
            raise Failure(str(error)) from error
        out.print(f"built {model}: ran {', '.join(ran)}" if ran else f"{model} is up to date: no stage is stale")


@app.command()
def variants(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what the gate has found, as JSON.")] = False,
) -> None:
    """Print each precision of a built model: size, speed, distance from FP32, metric, and what the gate said of it."""
    with one_line_errors():
        sys.path.insert(0, str(root := workspace()))
        from model_build import BuildError
        from model_build.precision.report import notes, read_found, rows

        try:
            found = read_found(root, model)
        except BuildError as error:
            raise Failure(str(error)) from error
        if as_json:
            _print_json(found)
            return
        out.print(_table(rows(found)))
        out.print("\n".join(notes(found)))


@app.command()
def roofline(
    model: Annotated[str, typer.Argument(help="Name of a built model.")],
    device: Annotated[
        str, typer.Option(help="t4, a10g, l4, a100, h100, h200, rtx3070ti, rtx4090, or cpu: this machine.")
    ],
    batch: Annotated[str, typer.Option(help="Batches, separated by commas.")] = "1,8,32",
    shape: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="Size of another free dimension, again for each.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, tf32, fp16 or int8.")] = "fp32",
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime, where this machine is measured.")] = 1,
    flops: Annotated[
        list[str] | None,
        typer.Option(metavar="OPERATOR=N", help="FLOPs for each output element of an operator without a formula."),
    ] = None,
    layers: Annotated[int, typer.Option(min=0, help="Print this many layers, those that take longest.")] = 15,
    html: Annotated[bool, typer.Option("--html", help="Also write a page with the plots into build/MODEL/.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every layer as JSON.")] = False,
) -> None:
    """Print FLOPs, bytes and arithmetic intensity of each layer, what bounds it on a device, and the best batch."""
    with one_line_errors():
        sys.path.insert(0, str(root := workspace()))
        from model_build import BuildError
        from model_build.files import write_file
        from model_build.roofline import report
        from model_build.roofline.analysis import Question, analyse

        try:
            sizes, known = _pairs(shape, "--shape", int), _pairs(flops, "--flops", float)
            question = Question(device, _whole_numbers(batch, "--batch"), sizes, precision, threads, known)
            with err.status("Reading the graphs") as status:
                found = analyse(root, model, question, status.update)
            page = root / "build" / model / f"roofline-{found.device.key}-{precision}.html"
            if html:
                write_file(page, report.page(found).encode())
        except (BuildError, OSError) as error:
            raise Failure(str(error)) from error
        if as_json:
            _print_json(report.to_json(found))
            return
        first = found.batches[0]
        out.print(_table(report.about(found), header=False))
        for rows in (report.batch_rows(found), report.operator_rows(first), report.layer_rows(first, layers)):
            out.print()
            out.print(_table(rows))
        out.print()
        out.print(report.verdict(found))
        if html:
            out.print(f"written: {page}")


@app.command()
def report(
    model: Annotated[str, typer.Argument(help="Name of a built model.")],
    device: Annotated[
        list[str] | None, typer.Option(help="A card to predict for beside this machine, again for each.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="In which the cards are predicted: fp32, tf32, fp16 or int8.")
    ] = "fp16",
    batch: Annotated[str, typer.Option(help="Batches of the roofline, separated by commas.")] = "1,8,32",
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="Size of another free dimension; 32 where it is not given."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="http://host:port of a server to time; without it, an embedded one is started.")
    ] = None,
) -> None:
    """Write build/MODEL/report.html: what was built of what, variants, curves, latency by stage, roofline, samples."""
    with one_line_errors():
        sys.path.insert(0, str(root := workspace()))
        import slipway_client

        import serving
        from model_build import BuildError, report
        from model_build.roofline.analysis import Question, analyse, free_sizes

        try:
            inputs = report.golden_inputs(root, model)
            sizes = free_sizes(root, model) | _pairs(shape, "--shape", int)
            here, *cards = (
                Question(one, _whole_numbers(batch, "--batch"), sizes, precision if index else "fp32")
                for index, one in enumerate(["cpu", *(device or [])])
            )
            with err.status("Triton is loading") as status, contextlib.ExitStack() as stack:
                if url is None:
                    url = stack.enter_context(_serving(root, report.served_folders(root, model)))
                status.update("Timing requests")
                latency = slipway_client.measure_latency(url, model, inputs)
            with err.status("Analysing") as status:
                measured = analyse(root, model, here, status.update)
                predicted = [analyse(root, model, card, status.update) for card in cards]
            path = report.write_report(root, model, dataclasses.asdict(latency), measured, predicted)
        except (BuildError, serving.ServingError, slipway_client.TritonError, OSError) as error:
            raise Failure(str(error)) from error
        out.print(f"written: {path}")


def _folders(root: Path, models: Sequence[str]) -> list[Path]:
    """The folders of model_repository/ that these models are served from."""
    sys.path.insert(0, str(root))  # their recipes say whether they are served
    from model_build import BuildError
    from model_build.report import served_folders

    try:
        return [folder for model in dict.fromkeys(models) for folder in served_folders(root, model)]
    except (BuildError, OSError) as error:
        raise Failure(str(error)) from error


@contextlib.contextmanager
def _linked(folders: Sequence[Path]) -> Iterator[Path]:
    """A model repository of links to these folders."""
    with tempfile.TemporaryDirectory() as repository:
        for folder in folders:
            (Path(repository) / folder.name).symlink_to(folder)
        yield Path(repository)


@contextlib.contextmanager
def _serving(root: Path, folders: Sequence[Path]) -> Iterator[str]:
    """The URL of an embedded Triton that serves these folders of a model repository."""
    import serving

    with _linked(folders) as repository:
        options = serving.ServerOptions.on_free_ports(repository)
        with serving.EmbeddedTriton(
            serving.find_interpreter(root), options, root / "build" / "triton-report.log"
        ) as one:
            one.wait_ready()
            yield options.http_url


@app.command()
def engine(
    model: Annotated[str, typer.Argument(help="Name of a built model.")],
    variant: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; without it, what the gate routes a GPU to.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MIN:OPT:MAX", help="Sizes of a dynamic dimension, again for each: batch=1:8:32"),
    ] = None,
    level: Annotated[int, typer.Option(help="How long TensorRT looks for faster kernels, 0 to 5.")] = 3,
    memory: Annotated[
        int | None, typer.Option(metavar="MIB", help="GPU memory that a layer may use; without it, all of it.")
    ] = None,
    trtexec: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="How trtexec is called, `docker run ...` too.", envvar="SLIPWAY_TRTEXEC"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the command, and why each flag is there or absent; build nothing.")
    ] = False,
) -> None:
    """Build a TensorRT plan of a variant on this machine's GPU, time it, and refuse one in another precision."""
    with one_line_errors():
        sys.path.insert(0, str(root := workspace()))
        from model_build import BuildError
        from model_build import engine as engines

        try:
            for source in engines.find_sources(root, model, variant):
                spec = engines.Spec.of(source, shape or (), level, memory)
                if explain:
                    why = engines.explain(root, spec, trtexec_command=trtexec)
                    out.print("\n".join([why.command, "", *why.notes, ""]), markup=False)
                    out.print(_table(why.rows))
                    continue
                with err.status(f"Building {source.served}") as status:

                    def tell(line: str, status: Status = status) -> None:
                        status.update(Text(line[:100]))

                    built = engines.build_engine(root, spec, trtexec_command=trtexec, status=tell)
                out.print(str(built), markup=False)
        except (BuildError, OSError) as error:
            raise Failure(str(error), getattr(error, "code", 1)) from error


@app.command()
def doctor(
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--no-gpu", help="Whether a GPU is to serve; without either, one that is there has to fit."),
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Model repository; without it, the workspace's model_repository/.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address that would be listened on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what this machine has and what it lacks: GPU, driver, processor, disk, shared memory, ports."""
    with one_line_errors():
        from serving import ServerOptions
        from serving.preflight import examine

        root = workspace()
        options = ServerOptions(
            repository=repository or root / "model_repository",
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
        )
        try:
            report = examine(root, options, gpu)
        except OSError as error:
            raise Failure(str(error)) from error
        if as_json:
            _print_json(report.as_json())
        else:
            out.print(_table(report.rows()))
            out.print("\n".join(report.notes()), markup=False)
        if not report:
            missing = ", ".join(check.name for check in report.problems)
            raise Failure(f"this machine lacks what is needed: {missing}", 4)


@app.command()
def serve(
    models: Annotated[
        list[str] | None, typer.Argument(help="Serve these models of the workspace alone, each with its variants.")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Model repository; without it, the workspace's model_repository/.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    timeout: Annotated[float, typer.Option(help="Seconds until every model must have answered.")] = 120.0,
    exit_timeout: Annotated[int, typer.Option(min=1, help="Seconds that running requests get at the end.")] = 30,
) -> None:
    """Serve the model repository with a real Triton on this machine, without Docker or a GPU."""
    with one_line_errors(), contextlib.ExitStack() as stack:
        import serving

        root = workspace()
        if models and repository:
            raise Failure("MODELS are the workspace's own: leave them or --repository out", 2)
        if models:
            repository = stack.enter_context(_linked(_folders(root, models)))
        options = serving.ServerOptions(
            repository=repository or root / "model_repository",
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            exit_timeout=exit_timeout,
        )
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: ended.set())
        try:
            log = root / "build" / f"triton-{http_port}.log"
            with serving.EmbeddedTriton(serving.find_interpreter(root), options, log) as server:
                if not serving.is_loopback(host):
                    err.print(f"warning: {serving.BEYOND_LOOPBACK.format(host=host)}", markup=False)
                with err.status("Triton is loading, then each model answers its golden request"):
                    server.wait_ready(timeout, ended.is_set)
                if ended.is_set():
                    out.print("stopped before it was ready")
                    return
                _print_endpoints(server)

                def tell(line: str) -> None:
                    err.print(f"warning: {line}", markup=False)

                if not serving.keep_serving(server, ended, tell, timeout):
                    out.print("stopped before it was ready again")
                    return
                if server.stop() != 0:
                    raise Failure(f"requests still ran after {exit_timeout} s and were dropped: raise --exit-timeout")
        except (serving.ServingError, OSError) as error:
            raise Failure(str(error)) from error
        out.print("stopped: every request was answered")


def _print_endpoints(server: Any) -> None:
    options = server.options
    table = Table("endpoint", "", box=None, pad_edge=False, show_header=False)
    for name, url in (("HTTP", options.http_url), ("gRPC", options.grpc_url), ("metrics", options.metrics_url)):
        table.add_row(name, url)
    table.add_row("models", ", ".join(model.name for model in server.models) + " (each gave its golden answer)")
    if unbuilt := server.unbuilt:
        table.add_row("not built", ", ".join(unbuilt) + " (`slipway build`, or `dvc pull`, brings what git has not)")
    table.add_row("log", str(server.log))
    out.print(table)
    out.print("ready; Ctrl-C stops it")


@app.command()
def push(
    remote: Annotated[str | None, typer.Option(help="Name of a DVC remote; without it, DVC's default remote.")] = None,
) -> None:
    """Send the weights that dvc.lock names to the DVC remote, from which the cluster pulls them."""
    with one_line_errors():
        from serving import ServingError
        from serving.release import push as run

        try:
            with err.status("Sending weights"):
                release, sent = run(workspace(), remote)
        except (ServingError, OSError) as error:
            raise Failure(str(error)) from error
        what = f"sent {sent} objects" if sent else "everything was there already"
        out.print(f"pushed revision {release.revision[:12]} ({', '.join(release.models)}): {what}")


@app.command()
def release(
    images: Annotated[
        Path | None, typer.Option(help="What `skaffold build --file-output=FILE` wrote: pins the images too.")
    ] = None,
) -> None:
    """Print the Helm values that pin this workspace's weights: `slipway release > release.yaml`."""
    with one_line_errors():
        from model_build.provenance import Commit
        from serving import ServingError
        from serving.release import helm_values, read, read_images, with_lock

        root = workspace()
        try:
            built = read_images(images) if images else {}
            values = helm_values(read(root), with_lock(root, str(Commit.of(root))), built)
        except (ServingError, OSError) as error:
            raise Failure(str(error)) from error
        out.print(values, end="", markup=False)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="One example each: images (PNG, JPEG, ...), arrays (.npy), several inputs by name (.npz); texts for a "
            "model of texts."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="UTF-8 file with one text a line; - is standard input.")] = None,
    url: Annotated[str, typer.Option(help="http://host:port or grpc://host:port", envvar="SLIPWAY_URL")] = DEFAULT_URL,
    local: Annotated[bool, typer.Option("--local", help="Run the same model here, without a server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 30.0,
) -> None:
    """Ask a model: print the class of each image or array, or its values, or the answer to each text.

    How an image becomes an array (size, rotation, colours, transparency): client/README.md, "Images".
    """
    with one_line_errors():
        import slipway_client

        if not inputs and file is None:
            raise Failure(
                "nothing to ask: pass image, .npy or .npz files, or texts (or --file FILE) for a model of texts", 2
            )
        try:
            where = f"local:{workspace() / 'model_repository'}" if local else url
            with slipway_client.Client(where, timeout=timeout) as client:
                asked = client.model(model)
                if asked.spec.takes_text:
                    texts = [*(inputs or []), *(slipway_client.read_texts(file) if file else [])]
                    rows, table = slipway_client.answer_texts(asked, texts, _labels(model))
                elif file is not None:
                    takes = f"model '{model}' takes {', '.join(map(str, asked.spec.inputs))}"
                    raise Failure(f"--file holds texts, and {takes}: pass image, .npy or .npz files", 2)
                else:
                    rows, table = slipway_client.answer_files(
                        asked, [Path(one) for one in inputs or []], _labels(model)
                    )
        except slipway_client.TritonError as error:
            raise Failure(str(error)) from error
        if as_json:
            _print_json(rows)
        else:
            out.print(_table(table))


def _labels(model: str) -> list[str]:
    """The classes of a model of this workspace; none elsewhere, where classes are then numbers."""
    with contextlib.suppress(Failure, OSError, UnicodeDecodeError):
        content = (workspace() / "model_repository" / model / "labels.txt").read_text(encoding="utf-8")
        return content.removesuffix("\n").split("\n")
    return []


if __name__ == "__main__":
    main()
