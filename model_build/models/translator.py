"""translator: Russian to English, an encoder-decoder transformer that decodes inside the server."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sacrebleu
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from model_build.config import TranslatorConfig
from model_build.files import write_files
from model_build.models.translation import corpora, learning
from model_build.models.translation.graphs import export_graphs
from model_build.models.translation.network import END, PAD
from model_build.models.translation.served.decoding import Translator as Decoding
from model_build.models.translation.vocabulary import learn_vocabulary
from model_build.precision.variants import FP32, Graphs
from model_build.recipe import Array, Inference, Recipe, ServedModel, as_text, read_served_code
from model_build.stages.layout import BuildFiles
from model_build.triton_config import python_model

SERVED = Path(__file__).parent / "translation" / "served"
GRAPHS = ("encoder.onnx", "decoder.onnx", learning.SOURCE_TOKENIZER, learning.TARGET_TOKENIZER)
PARITY_SENTENCES = 8
INFER_BATCH = 64


class Translator(Recipe[TranslatorConfig]):
    """`text` BYTES `[n, 1]` to `translation` BYTES `[n, 1]`, with `finish_reason` and the number of `tokens`."""

    stages = "translator-"
    metric = "bleu"
    metric_range = (0.0, 100.0)

    def source_sha256(self) -> str | None:
        """Hash of the file that `data.path` names."""
        return corpora.file_sha256(self.config.data)

    def made_of_sha256(self, files: BuildFiles) -> str | None:
        """As the corpus has it: of the file alone."""
        return corpora.read_about(files.corpus).file_sha256

    def source(self, files: BuildFiles) -> tuple[str, str]:
        """As the corpus has it."""
        about = corpora.read_about(files.corpus)
        return about.source, about.sha256

    def prepare(self, files: BuildFiles) -> str:
        """Write the three parts, and the vocabularies of the training part."""
        corpus = corpora.make_corpus(self.config.data)
        contents = corpus.to_files()
        for name, side in ((learning.SOURCE_TOKENIZER, "source"), (learning.TARGET_TOKENIZER, "target")):
            texts = (getattr(pair, side) for _, pair in corpus.train)
            contents[name] = learn_vocabulary(texts, self.config.data.vocabulary).to_str().encode()
        samples = "".join(f"{pair.source}\n" for _, pair in corpus.test[:10]).encode()
        write_files(
            {**{files.corpus / name: data for name, data in contents.items()}, files.samples / "texts.txt": samples}
        )
        sizes = [len(part) for part in (corpus.train, corpus.validation, corpus.test)]
        return f"{corpus.about.source}: {sizes[0]} train, {sizes[1]} validation, {sizes[2]} test"

    def train(self, files: BuildFiles) -> str:
        """Fit the network."""
        return learning.train(files, self.config)

    def export(self, files: BuildFiles) -> str:
        """Write encoder.onnx and decoder.onnx, with the vocabularies beside them: a folder that decodes."""
        tokenizers = learning.read_tokenizers(files)
        network = learning.make_network(self.config, tokenizers).eval()
        network.load_state_dict(load_file(files.weights))
        texts = [pair.source for _, pair in corpora.Corpus.from_folder(files.corpus).test[:PARITY_SENTENCES]]
        rows = [torch.tensor([*encoding.ids, END]) for encoding in tokenizers[0].encode_batch(texts)]
        source = pad_sequence(rows, batch_first=True, padding_value=PAD)
        contents, distance = export_graphs(network, source, self.config.export)
        for name in (learning.SOURCE_TOKENIZER, learning.TARGET_TOKENIZER):
            contents[name] = (files.corpus / name).read_bytes()
        write_files({files.graphs / name: content for name, content in contents.items()})
        return f"encoder and decoder step, tokens equal and caches within {distance:.1e} of PyTorch"

    def infer(self, files: BuildFiles) -> Inference:
        """Translate the test part; BLEU by origin, and that of copying the source beside it."""
        test = corpora.Corpus.from_folder(files.corpus).test
        translations = self._translate(files.graphs, [pair.source for _, pair in test])
        details: dict[str, float | str] = {}
        for origin in dict.fromkeys(origin for origin, _ in test):
            rows = [index for index, (name, _) in enumerate(test) if name == origin]
            wanted = [test[row][1].target for row in rows]
            scorer = sacrebleu.BLEU()
            details[f"bleu_{origin}"] = scorer.corpus_score([translations[row] for row in rows], [wanted]).score
            details[f"signature_{origin}"] = str(scorer.get_signature())
            copied = [test[row][1].source for row in rows]
            details[f"bleu_{origin}_copying_source"] = sacrebleu.BLEU().corpus_score(copied, [wanted]).score
        predictions = [
            ("origin", "source", "reference", "translation"),
            *((name, pair.source, pair.target, text) for (name, pair), text in zip(test, translations, strict=True)),
        ]
        first = next(value for key, value in details.items() if key.startswith("bleu_"))
        assert isinstance(first, float)
        return Inference(first, len(test), predictions, details)

    def serve(self, files: BuildFiles, variant: str = FP32, graphs: Graphs | None = None) -> Sequence[ServedModel]:
        """The streaming twin, and the translator: the same files, one answer or many."""
        network, name = self.config.network, self.config.name
        contents = {f"1/{graph}": (files.graphs / graph).read_bytes() for graph in GRAPHS}
        contents |= read_served_code(SERVED, "model.py", "decoding.py")
        with tempfile.TemporaryDirectory() as folder:
            for graph in GRAPHS:
                (Path(folder) / graph).write_bytes(contents[f"1/{graph}"])
            text = corpora.Corpus.from_folder(files.corpus).test[0][1].source
            outputs = self._answer(Path(folder), text)
        parameters = {
            "max_source_tokens": network.max_source_tokens,
            "max_target_tokens": network.max_target_tokens,
        }
        return [
            python_model(
                served,
                self.config.triton,
                files=contents,
                parameters=parameters,
                inputs={"text": as_text([text])},
                outputs=outputs,
                decoupled=decoupled,
            )
            for served, decoupled in ((f"{name}_stream", True), (name, False))
        ]

    def _decoding(self, folder: Path) -> Decoding:
        network = self.config.network
        return Decoding(folder, self.config.train.threads, network.max_source_tokens, network.max_target_tokens)

    def _answer(self, folder: Path, text: str) -> dict[str, Array]:
        decoding = self._decoding(folder)
        sentence = decoding.sentence(text)
        decoding.decode([sentence])
        return {
            "translation": as_text([decoding.text(sentence.tokens)]),
            "finish_reason": as_text([sentence.finish_reason]),
            "tokens": np.array([[len(sentence.tokens)]], np.int32),
        }

    def _translate(self, folder: Path, texts: Sequence[str]) -> list[str]:
        """Sentences of like length together, in the order of `texts`."""
        decoding = self._decoding(folder)
        sentences = [decoding.sentence(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(sentences[index].source))
        for start in range(0, len(order), INFER_BATCH):
            decoding.decode([sentences[index] for index in order[start : start + INFER_BATCH]])
        return [decoding.text(sentence.tokens) for sentence in sentences]
