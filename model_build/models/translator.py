"""translator: Russian to English, an encoder-decoder transformer that decodes inside the server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import sacrebleu
import torch
from torch.nn.utils.rnn import pad_sequence

from model_build import fitting
from model_build._errors import DataError
from model_build.config import TranslatorConfig
from model_build.files import write_files
from model_build.models.translation import corpora, learning
from model_build.models.translation.feeds import record_feeds
from model_build.models.translation.graphs import export_graphs
from model_build.models.translation.network import END, PAD
from model_build.models.translation.pairs import Pair
from model_build.models.translation.served.decoding import Translator as Decoding
from model_build.models.translation.vocabulary import learn_vocabulary
from model_build.precision.variants import CPU, FP32, GPU, Graphs, of_both, served_name
from model_build.recipe import Array, Feed, Inference, ServedModel, Variable, as_text, read_served_code
from model_build.stages.layout import BuildFiles
from model_build.triton_config import python_model

SERVED = Path(__file__).parent / "translation" / "served"
ENCODER, DECODER = GRAPHS = ("encoder.onnx", "decoder.onnx")
TOKENIZERS = (learning.SOURCE_TOKENIZER, learning.TARGET_TOKENIZER)
PARITY_SENTENCES = 8
COMPARED_SENTENCES = 4  # of the held-out part, to compare layers and to measure speed with
GOLDEN_CANDIDATES = 50
INFER_BATCH = 64


class Translator(Variable[TranslatorConfig]):
    """`text` BYTES `[n, 1]` to `translation` BYTES `[n, 1]`, with `finish_reason` and the number of `tokens`."""

    stages = "translator-"
    metric = variant_metric = "bleu"
    metric_range = (0.0, 100.0)
    runs_on_gpus = False

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
        fitting.load_weights(network, files.weights)
        texts = self._fitting(files, [pair.source for _, pair in corpora.Corpus.from_folder(files.corpus).test])
        texts = texts[:PARITY_SENTENCES]
        rows = [torch.tensor([*encoding.ids, END]) for encoding in tokenizers[0].encode_batch(texts)]
        source = pad_sequence(rows, batch_first=True, padding_value=PAD)
        contents, distance = export_graphs(network, source, self.config.export)
        for name in TOKENIZERS:
            contents[name] = (files.corpus / name).read_bytes()
        write_files({files.graphs / name: content for name, content in contents.items()})
        return f"encoder and decoder step, tokens equal and caches within {distance:.1e} of PyTorch"

    def infer(self, files: BuildFiles) -> Inference:
        """Translate the test part; BLEU by origin, and that of copying the source beside it."""
        test = corpora.Corpus.from_folder(files.corpus).test
        translations = self._translate(files, self.graphs(files), [pair.source for _, pair in test])
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
        return Inference(first, len(self._judged(files)), predictions, details)

    def graphs(self, files: BuildFiles) -> Mapping[str, bytes]:
        """Encoder and decoder step."""
        return {name: (files.graphs / name).read_bytes() for name in GRAPHS}

    def calibration(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """The validation part as FP32 decodes it, some of each origin."""
        texts = self._fitting(files, [pair.source for _, pair in corpora.Corpus.from_folder(files.corpus).validation])
        stride = max(1, len(texts) // self.config.precision.calibration_examples)
        chosen = texts[::stride][: self.config.precision.calibration_examples]
        return record_feeds(self._decoding(files, self.graphs(files)), chosen)

    def evaluation(self, files: BuildFiles) -> Mapping[str, Sequence[Feed]]:
        """The first held-out sentences as FP32 decodes them."""
        texts = self._fitting(files, [pair.source for pair in self._judged(files)])[:COMPARED_SENTENCES]
        if not texts:
            raise DataError(
                f"each held-out text of {files.corpus} is longer than network.max_source_tokens "
                f"{self.config.network.max_source_tokens}: raise it, or give shorter texts"
            )
        return record_feeds(self._decoding(files, self.graphs(files)), texts)

    def requests(self, files: BuildFiles) -> Sequence[Feed]:
        """The held-out part that `gate.minimum` is for; a text that is too long is asked for as an empty one."""
        sources, size = [pair.source for pair in self._judged(files)], self.config.triton.max_batch_size
        fitting = {*self._fitting(files, sources)}
        texts = [text if text in fitting else "" for text in sources]
        return [{"text": as_text(texts[start : start + size])} for start in range(0, len(texts), size)]

    def answer(self, files: BuildFiles, graphs: Mapping[str, bytes]) -> Mapping[str, Array]:
        """Translations, and what the encoder makes of the first sentences: float32 `[n, values]`."""
        texts = [pair.source for pair in self._judged(files)]
        encoder, feeds = self._decoding(files, graphs).encoder, self.evaluation(files)[ENCODER]
        values = [encoder.run(["memory_values_0"], dict(feed))[0] for feed in feeds]
        most = max(one.size for one in values)
        encoded = np.stack([np.pad(one.ravel(), (0, most - one.size)) for one in values])
        return {"translation": as_text(self._translate(files, graphs, texts)), "encoded": encoded}

    def judge(self, files: BuildFiles, answers: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
        """BLEU of the translations."""
        found = [one.decode() if isinstance(one, bytes) else one for one in answers["translation"].ravel()]
        wanted = [pair.target for pair in self._judged(files)]
        return float(sacrebleu.BLEU().corpus_score(found, [wanted]).score)

    def serve(self, files: BuildFiles, variant: str = FP32, graphs: Graphs | None = None) -> Sequence[ServedModel]:
        """Tokenizers, both graphs and the loop around them."""
        return [self._served(files, served_name(self.config.name, variant), graphs or of_both(self.graphs(files)))]

    def public(self, files: BuildFiles, chosen: Mapping[str, Graphs]) -> Sequence[ServedModel]:
        """The streaming twin, and the translator: the chosen graphs, one answer or many.

        Triton does not tell a step of an ensemble that is at work that its client has gone, and the loop must end
        then: the folders hold the graphs themselves, and each target's configuration names its own.
        """
        name = self.config.name
        return [
            self._served(files, served, chosen[GPU], chosen[CPU], decoupled)
            for served, decoupled in ((f"{name}_stream", True), (name, False))
        ]

    def _served(
        self, files: BuildFiles, name: str, graphs: Graphs, on_cpu: Graphs | None = None, decoupled: bool = False
    ) -> ServedModel:
        """One folder; `on_cpu` are the graphs of configs/cpu.pbtxt where they have files of their own."""
        network = self.config.network
        contents = {f"1/{one}": (files.corpus / one).read_bytes() for one in TOKENIZERS}
        contents |= {f"1/{one}": graph.cpu for one, graph in graphs.items()}
        contents |= {f"1/{_cpu_file(one)}": graph.cpu for one, graph in (on_cpu or {}).items()}
        text, outputs = self._golden(files, [graphs, on_cpu or graphs])
        model = python_model(
            name,
            self.config.triton,
            files=contents | read_served_code(SERVED, "model.py", "decoding.py"),
            parameters={
                "max_source_tokens": network.max_source_tokens,
                "max_target_tokens": network.max_target_tokens,
                "encoder": ENCODER,
                "decoder": DECODER,
            },
            inputs={"text": as_text([text])},
            outputs=outputs,
            decoupled=decoupled,
        )
        if not on_cpu:
            return model
        cpu = type(model.cpu)()
        cpu.CopyFrom(model.cpu)
        for key, file in (("encoder", ENCODER), ("decoder", DECODER)):
            cpu.parameters[key].string_value = _cpu_file(file)
        return replace(model, cpu=cpu)

    def _golden(self, files: BuildFiles, served: Sequence[Graphs]) -> tuple[str, dict[str, Array]]:
        """A held-out text that all of these translate alike, and its translation; without one the empty text."""
        decodings = [self._decoding(files, {name: graph.cpu for name, graph in graphs.items()}) for graphs in served]
        texts = self._fitting(files, [pair.source for pair in self._judged(files)])
        for text in [*texts[:GOLDEN_CANDIDATES], ""]:
            answers = [_answer(decoding, text) for decoding in decodings]
            if all(answer == answers[0] for answer in answers):
                break
        translation, reason, count = answers[0]
        outputs = {"translation": as_text([translation]), "finish_reason": as_text([reason])}
        return text, {**outputs, "tokens": np.array([[count]], np.int32)}

    def _judged(self, files: BuildFiles) -> list[Pair]:
        """The held-out pairs of the first origin, which `gate.minimum` is for."""
        test = corpora.Corpus.from_folder(files.corpus).test
        return [pair for origin, pair in test if origin == test[0][0]]

    def _fitting(self, files: BuildFiles, texts: Sequence[str]) -> list[str]:
        """Those that the network takes."""
        tokenizer, _ = learning.read_tokenizers(files)
        return [text for text in texts if len(tokenizer.encode(text).ids) < self.config.network.max_source_tokens]

    def _decoding(self, files: BuildFiles, graphs: Mapping[str, bytes]) -> Decoding:
        network = self.config.network
        with tempfile.TemporaryDirectory() as folder:  # the sessions are in memory once they are open
            for name in TOKENIZERS:
                (Path(folder) / name).write_bytes((files.corpus / name).read_bytes())
            for name, content in graphs.items():
                (Path(folder) / name).write_bytes(content)
            limits = (network.max_source_tokens, network.max_target_tokens)
            return Decoding(Path(folder), self.config.train.threads, *limits)

    def _translate(self, files: BuildFiles, graphs: Mapping[str, bytes], texts: Sequence[str]) -> list[str]:
        """Sentences of like length together, in the order of `texts`; of one that is too long nothing."""
        decoding, fitting = self._decoding(files, graphs), {*self._fitting(files, texts)}
        sentences = [decoding.sentence(text if text in fitting else "") for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(sentences[index].source))
        for start in range(0, len(order), INFER_BATCH):
            decoding.decode([sentences[index] for index in order[start : start + INFER_BATCH]])
        return [decoding.text(sentence.tokens) for sentence in sentences]


def _cpu_file(graph: str) -> str:
    return f"{graph.removesuffix('.onnx')}.cpu.onnx"


def _answer(decoding: Decoding, text: str) -> tuple[str, str, int]:
    """Translation, why it ended, and how many tokens it has."""
    sentence = decoding.sentence(text)
    decoding.decode([sentence])
    return decoding.text(sentence.tokens), sentence.finish_reason, len(sentence.tokens)
