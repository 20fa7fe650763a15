"""The command `slipway`: it parses, calls, and turns every error into one line and an exit code.

Exit codes: 0 done; 1 failed, the line on stderr says why; 2 wrong usage; 3 the accuracy gate refused the model;
130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

app = typer.Typer(
    help="From a PyTorch model to a tuned Triton deployment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DEFAULT_URL = "http://127.0.0.1:8000"


def main() -> None:
    """Entry point."""
    app()


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
        more = [] if kept is None else [f"precision.int8.keep_fp32=[{','.join(kept)}]"]
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
            typer.echo(json.dumps(found, indent=2))
            return
        header, *lines = rows(found)
        table = Table(*header, box=None, pad_edge=False)
        for line in lines:
            table.add_row(*map(Text, line))
        out.print(table)
        out.print("\n".join(notes(found)))


@app.command()
def serve(
    repository: Annotated[Path | None, typer.Option(help="Model repository [default: model_repository/]")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    timeout: Annotated[float, typer.Option(help="Seconds until every model must have answered.")] = 120.0,
    exit_timeout: Annotated[int, typer.Option(min=1, help="Seconds that running requests get at the end.")] = 30,
) -> None:
    """Serve the model repository with a real Triton on this machine, without Docker or a GPU."""
    with one_line_errors():
        import serving

        root = workspace()
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
                with err.status("Triton is loading, then each model answers its golden request"):
                    server.wait_ready(timeout, ended.is_set)
                if ended.is_set():
                    out.print("stopped before it was ready")
                    return
                _print_endpoints(server)
                while not ended.wait(0.2):
                    server.check_alive()
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
    table.add_row("log", str(server.log))
    out.print(table)
    out.print("ready; Ctrl-C stops it")


@app.command()
def push(
    remote: Annotated[str | None, typer.Option(help="Name of a DVC remote [default: DVC's default remote]")] = None,
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
        typer.Argument(help="Images (PNG, JPEG, ...) or arrays (.npy), one example each; texts for a model of texts."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="UTF-8 file with one text a line; - is standard input.")] = None,
    url: Annotated[str, typer.Option(help="http://host:port or grpc://host:port", envvar="SLIPWAY_URL")] = DEFAULT_URL,
    local: Annotated[bool, typer.Option("--local", help="Run the same model here, without a server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 30.0,
) -> None:
    """Ask a model: print the class of each image or array, or the answer to each text."""
    with one_line_errors():
        import slipway_client

        if not inputs and file is None:
            raise Failure("nothing to ask: pass image or .npy files, or texts (or --file FILE) for a model of texts", 2)
        try:
            where = f"local:{workspace() / 'model_repository'}" if local else url
            with slipway_client.Client(where, timeout=timeout) as client:
                asked = client.model(model)
                ask = _answer_texts if asked.spec.takes_text else _classify
                rows, table = ask(asked, inputs or [], file)
        except slipway_client.TritonError as error:
            raise Failure(str(error)) from error
        if as_json:
            typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))  # Rich takes 10 s for 1,000 embeddings
        else:
            out.print(table)


def _labels(model: str) -> list[str]:
    """The classes of a model of this workspace; none elsewhere, where classes are then numbers."""
    with contextlib.suppress(Failure, FileNotFoundError):
        return (workspace() / "model_repository" / model / "labels.txt").read_text().splitlines()
    return []


def _classify(model: Any, files: list[str], texts: Path | None) -> tuple[list[dict[str, Any]], Table]:
    """Each file's most probable class; every file is read before the first is sent."""
    import slipway_client

    (tensor, *others), output, labels = model.spec.inputs, model.spec.outputs[0], _labels(model.name)
    if texts is not None:
        raise Failure(f"--file holds texts, and model '{model.name}' takes {tensor}: pass image or .npy files", 2)
    if others or len(output.shape) > 2 or not output.datatype.startswith("FP"):
        raise Failure(f"model '{model.name}' is no classifier of one array or one text: ask it from Python")
    examples = [slipway_client.read_example(Path(path), tensor) for path in files]
    rows, table = [], Table(Column("file", overflow="fold"), "class", "probability", box=None, pad_edge=False)
    for path, example in zip(files, examples, strict=True):
        answer = model.infer({tensor.name: example})
        probabilities = answer[output.name].ravel()
        index = int(probabilities.argmax())
        label, probability = labels[index] if index < len(labels) else str(index), float(probabilities[index])
        version = {"model": answer.model_name, "version": answer.model_version}
        rows.append({"file": path, "class": label, "probability": probability, **version})
        table.add_row(Text(path), label, f"{probability:.4f}")
    return rows, table


def _answer_texts(model: Any, texts: list[str], file: Path | None) -> tuple[list[dict[str, Any]], Table]:
    """Each text's outputs; of a vector the table shows its dimension and how near it is to the first text's."""
    import slipway_client

    texts = [*texts, *(slipway_client.read_texts(file) if file else [])]
    answers = list(slipway_client.ask_texts(model, texts))
    rows, table = [], Table(Column("text", overflow="fold"), box=None, pad_edge=False)
    for name, array in answers[0].items():
        vector = array.dtype.kind == "f" and array.size > 1
        for header in ("dimension", "cosine similarity to the first text") if vector else (name,):
            table.add_column(header, overflow="fold")
    for text, answer in zip(texts, answers, strict=True):
        values = {name: _value(array) for name, array in answer.items()}
        rows.append({"text": text, **values, "model": answer.model_name, "version": answer.model_version})
        cells = [cell for name in answer for cell in _cells(answer[name], answers[0][name])]
        table.add_row(Text(text), *map(Text, cells))
    return rows, table


def _value(array: Any) -> Any:
    """One text's output for JSON: text for BYTES, the bare value where there is one, lists otherwise."""
    values = array.tolist() if array.dtype != object else [one.decode(errors="backslashreplace") for one in array.flat]
    return values[0] if array.shape == (1,) else values


def _cells(array: Any, first: Any) -> list[str]:
    """One text's output for the table."""
    if array.dtype.kind != "f" or array.size == 1:
        return [str(_value(array))]
    left, right = array.ravel().astype(float), first.ravel().astype(float)
    length = math.sqrt((left @ left) * (right @ right)) if left.shape == right.shape else 0.0
    return [" x ".join(map(str, array.shape)), f"{left @ right / length:.4f}" if length else "undefined"]


if __name__ == "__main__":
    main()
