"""embedder: text to a unit vector, with pretrained weights: a tokenizer, a transformer and pooling in an ensemble."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model_build import tracking
from model_build._errors import ConfigurationError, DataError
from model_build.config import EmbedderConfig, to_flat
from model_build.files import sha256, write_files
from model_build.models.embedding.networks import Pooling, load_transformer, residuals_as_sum
from model_build.models.embedding.pretrained import CONFIG, TOKENIZER, WEIGHTS, find_pretrained
from model_build.models.embedding.sentences import read_sentences
from model_build.models.embedding.served.tokenization import TextTokenizer
from model_build.onnx_export import Array, export_onnx, open_session, parity
from model_build.precision.variants import FP32, Graphs, of_both, served_name
from model_build.recipe import Feed, Inference, ServedModel, Variable, as_text, read_served_code
from model_build.stages.layout import BuildFiles
from model_build.tables import file_sha256, read_two_columns
from model_build.triton_config import ENSEMBLE_FILE, ensemble, graph_model, python_model

SERVED = Path(__file__).parent / "embedding" / "served"
TRANSFORMER, POOLING = "transformer.onnx", "pooling.onnx"
PAIRS = "pairs.tsv"
GOLDEN_TEXT = "Slipway takes a PyTorch model to a tuned Triton deployment."
PARITY_TEXTS = (["One text."], ["", "Two texts, one of them empty."], ["A longer text is cut. " * 60, "Ещё один 🚢"])
CALIBRATION = "calibration.txt"
COMPARED_TEXTS = (1, 8)  # of the held-out part, to compare layers and to measure speed with


class Embedder(Variable[EmbedderConfig]):
    """`text` BYTES `[n, 1]` to `embedding` float32 `[n, width]`, each row of length 1."""

    stages = "embedder-"
    metric = "recall_at_1"
    variant_metric = "spearman"

    def source_sha256(self) -> str | None:
        """Hash of the file that `data.path` names."""
        return file_sha256(Path(self.config.data.path)) if self.config.data.path else None

    def source(self, files: BuildFiles) -> tuple[str, str]:
        """As stage data has noted."""
        path = files.corpus / "corpus.json"
        try:
            about = json.loads(path.read_text())
            return str(about["source"]), str(about["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not what stage data writes ({error!r}): run `dvc repro`") from error

    def prepare(self, files: BuildFiles) -> str:
        """Write pairs of texts: a summary, and the description that it should find."""
        path = Path(self.config.data.path) if self.config.data.path else None
        sentences = read_sentences(path, self.config.data.examples)
        pairs = sentences.pairs
        lines = "".join(f"{summary}\t{description}\n" for summary, description in pairs).encode()
        source = str(path or "Debian's package descriptions")
        about = {"source": source, "sha256": self.source_sha256() or hashlib.sha256(lines).hexdigest()}
        samples = "".join(f"{summary}\n" for summary, _ in pairs[:10]).encode()
        write_files(
            {
                files.corpus / PAIRS: lines,
                files.corpus / CALIBRATION: "".join(f"{text}\n" for text in sentences.calibration).encode(),
                files.samples / "texts.txt": samples,
                files.corpus / "corpus.json": json.dumps(about, indent=2).encode() + b"\n",
            }
        )
        return f"{len(pairs)} pairs of texts from {source}"

    def train(self, files: BuildFiles) -> str:
        """Take the pretrained weights."""
        found = find_pretrained(self.config.pretrained)
        with tracking.training_run(files.workspace, self.config.name) as mlflow:
            contents = {name: path.read_bytes() for name, path in found.files.items()}
            self._check_length(contents[CONFIG])
            digest = hashlib.sha256(contents[WEIGHTS]).hexdigest()
            mlflow.log_params(
                {**to_flat(self.config), "found.pretrained": found.source, "found.weights_sha256": digest}
            )
            about = {"pretrained": found.source, "weights_sha256": digest}
            write_files(
                {
                    files.pretrained / CONFIG: contents[CONFIG],
                    files.pretrained / TOKENIZER: contents[TOKENIZER],
                    files.training: json.dumps(about, indent=2).encode() + b"\n",
                    files.weights: contents[WEIGHTS],
                }
            )
            mlflow.set_tag(tracking.WEIGHTS_TAG, sha256(files.weights))
        return f"{len(contents[WEIGHTS]) >> 20} MiB of pretrained weights from {found.source}"

    def export(self, files: BuildFiles) -> str:
        """Write transformer.onnx and pooling.onnx, with dynamic batch and sequence length."""
        tokenizer = self._tokenizer(files)
        batches = []
        for texts in PARITY_TEXTS:
            ids, mask = tokenizer.encode(texts)
            batches.append({"input_ids": ids, "attention_mask": mask})
        transformer, pooling = load_transformer(files.weights, files.pretrained / CONFIG), Pooling().eval()
        batch, length = torch.export.Dim("batch"), torch.export.Dim("tokens")
        shape, allowed = {0: batch, 1: length}, self.config.export.parity_atol
        example = tuple(torch.from_numpy(array) for array in batches[1].values())
        transformer_file = export_onnx(
            transformer,
            example,
            inputs=["input_ids", "attention_mask"],
            outputs=["token_embeddings"],
            dynamic_shapes=(shape, shape),
            config=self.config.export,
        )
        transformer_file = residuals_as_sum(transformer_file)
        session = open_session(transformer_file)
        distance = parity(transformer, session, batches, allowed)
        states = [
            {"token_embeddings": session.run(None, one)[0], "attention_mask": one["attention_mask"]} for one in batches
        ]
        pooling_file = export_onnx(
            pooling,
            tuple(torch.from_numpy(array) for array in states[1].values()),
            inputs=["token_embeddings", "attention_mask"],
            outputs=["embedding"],
            dynamic_shapes=(shape, shape),
            config=self.config.export,
        )
        parity(pooling, open_session(pooling_file), states, allowed)
        write_files({files.graphs / TRANSFORMER: transformer_file, files.graphs / POOLING: pooling_file})
        return f"transformer and pooling, within {distance:.1e} of PyTorch"

    def infer(self, files: BuildFiles) -> Inference:
        """Does each summary find its description?"""
        pairs = read_two_columns(files.corpus / PAIRS)
        vectors = self.answer(files, self.graphs(files))["embedding"]
        summaries, descriptions = vectors[: len(pairs)], vectors[len(pairs) :]
        similarity = summaries @ descriptions.T
        right = np.diagonal(similarity)
        ranks = (~(similarity < right[:, np.newaxis])).sum(
            axis=1
        )  # whatever is as near, or not a number, counts against
        predictions: list[list[object]] = [["summary", "description", "found", "rank", "similarity"]]
        for index, (summary, description) in enumerate(pairs):
            found = pairs[int(similarity[index].argmax())][1]
            predictions.append([summary, description, found, int(ranks[index]), f"{right[index]:.6f}"])
        details: dict[str, float | str] = {"mean_reciprocal_rank": float((1 / ranks).mean())}
        return Inference(float((ranks == 1).mean()), len(pairs), predictions, details)

    def graphs(self, files: BuildFiles) -> Mapping[str, bytes]:
        """The transformer; pooling stays FP32, it is no work."""
        return {TRANSFORMER: (files.graphs / TRANSFORMER).read_bytes()}

    def calibration(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """Texts that are in no pair."""
        texts = (files.corpus / CALIBRATION).read_text(encoding="utf-8").splitlines()
        return {
            TRANSFORMER: [self._tokens(files, [one]) for one in texts[: self.config.precision.calibration_examples]]
        }

    def evaluation(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """The first descriptions."""
        texts = self._texts(files)[-max(COMPARED_TEXTS) :]
        return {TRANSFORMER: [self._tokens(files, texts[:size]) for size in COMPARED_TEXTS]}

    def requests(self, files: BuildFiles) -> Sequence[Feed]:
        """Every summary, then every description."""
        texts, size = self._texts(files), self.config.triton.max_batch_size
        return [{"text": as_text(texts[start : start + size])} for start in range(0, len(texts), size)]

    def answer(self, files: BuildFiles, graphs: Mapping[str, bytes]) -> Mapping[str, Array]:
        """Embed every summary, then every description."""
        return {"embedding": self._embed(files, graphs[TRANSFORMER], self._texts(files))}

    def judge(self, files: BuildFiles, answers: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
        """Spearman's correlation of the similarities of all pairs of texts with those that FP32 finds."""
        from scipy.stats import spearmanr  # takes half a second, and most stages judge nothing

        found, expected = (_similarities(vectors["embedding"]) for vectors in (answers, reference))
        correlation = float(spearmanr(found, expected).statistic)
        return correlation if np.isfinite(correlation) else -1.0

    def serve(self, files: BuildFiles, variant: str = FP32, graphs: Graphs | None = None) -> Sequence[ServedModel]:
        """Tokenizer, transformer, pooling, and the ensemble of them; the first and the third are every variant's."""
        name, triton = self.config.name, self.config.triton
        graph = (graphs or of_both(self.graphs(files)))[TRANSFORMER]
        pooling_file = (files.graphs / POOLING).read_bytes()
        text, tokens = as_text([GOLDEN_TEXT]), self._tokens(files, [GOLDEN_TEXT])
        # What pooling is asked with is FP32's in every variant: the folder is one.
        (states,) = open_session(self.graphs(files)[TRANSFORMER]).run(None, dict(tokens))
        (found,) = open_session(graph.cpu).run(None, dict(tokens))
        states_in: dict[str, Array] = {"token_embeddings": states, "attention_mask": tokens["attention_mask"]}
        pooling_session = open_session(pooling_file)
        (embedding,) = pooling_session.run(None, states_in)
        (pooled,) = pooling_session.run(None, {**states_in, "token_embeddings": found})
        tokenizer = self._tokenizer_model(files, text, tokens)
        transformer = graph_model(
            served_name(f"{name}_transformer", variant),
            graph,
            triton,
            files={},
            inputs=tokens,
            outputs={"token_embeddings": found},
        )
        pooling = graph_model(
            f"{name}_pooling",
            pooling_file,
            triton,
            files={},
            inputs=states_in,
            outputs={"embedding": embedding},
        )
        between = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        hidden = {"token_embeddings": "token_embeddings"}
        steps: list[tuple[ServedModel, Mapping[str, str], Mapping[str, str]]] = [
            (tokenizer, {"text": "text"}, between),
            (transformer, between, hidden),
            (pooling, {**hidden, "attention_mask": "attention_mask"}, {"embedding": "embedding"}),
        ]
        whole = ensemble(served_name(name, variant), triton, steps, ENSEMBLE_FILE)
        return [tokenizer, transformer, pooling, replace(whole, outputs={"embedding": pooled})]

    def _tokenizer_model(self, files: BuildFiles, text: Array, tokens: Feed) -> ServedModel:
        pretrained = self.config.pretrained
        return python_model(
            f"{self.config.name}_tokenizer",
            self.config.triton,
            files={
                **read_served_code(SERVED, "model.py", "tokenization.py"),
                "1/tokenizer.json": (files.pretrained / TOKENIZER).read_bytes(),
            },
            parameters={
                "max_tokens": pretrained.max_tokens,
                "pad_to_multiple_of": pretrained.pad_to_multiple_of,
            },
            inputs={"text": text},
            outputs=tokens,
            variable=("input_ids", "attention_mask"),
        )

    def _check_length(self, network: bytes) -> None:
        """Raise a ConfigurationError where the network has no positions for the longest text."""
        most, asked = json.loads(network).get("max_position_embeddings"), self.config.pretrained.max_tokens
        if most is not None and asked > most:
            raise ConfigurationError(
                f"pretrained.max_tokens is {asked}: expected at most {most}, what the network takes"
            )

    def _tokenizer(self, files: BuildFiles) -> TextTokenizer:
        pretrained = self.config.pretrained
        return TextTokenizer(files.pretrained / TOKENIZER, pretrained.max_tokens, pretrained.pad_to_multiple_of)

    def _texts(self, files: BuildFiles) -> list[str]:
        pairs = read_two_columns(files.corpus / PAIRS)
        return [pair[side] for side in (0, 1) for pair in pairs]

    def _tokens(self, files: BuildFiles, texts: Sequence[str]) -> Feed:
        ids, mask = self._tokenizer(files).encode(texts)
        return {"input_ids": ids, "attention_mask": mask}

    def _embed(self, files: BuildFiles, graph: bytes, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors `[n, width]`, computed in batches of texts of like length."""
        tokenizer = self._tokenizer(files)
        transformer, pooling = open_session(graph), open_session((files.graphs / POOLING).read_bytes())
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found: dict[int, npt.NDArray[np.float32]] = {}
        for start in range(0, len(order), self.config.triton.max_batch_size):
            rows = order[start : start + self.config.triton.max_batch_size]
            ids, mask = tokenizer.encode([texts[row] for row in rows])
            (states,) = transformer.run(None, {"input_ids": ids, "attention_mask": mask})
            (vectors,) = pooling.run(None, {"token_embeddings": states, "attention_mask": mask})
            found.update(zip(rows, vectors, strict=True))
        return np.stack([found[row] for row in range(len(texts))])


def _similarities(vectors: Array) -> Array:
    """Cosine of each vector with each other one, of unit vectors `[n, width]`."""
    rows, columns = np.triu_indices(len(vectors), k=1)
    similarities: Array = (vectors @ vectors.T)[rows, columns]
    return similarities
