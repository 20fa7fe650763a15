"""The Python package tensorrt gets the settings that trtexec gets; here a fake one stands for it, which has no GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from model_build.engine import EngineFailed, build_engine, python_api
from tests.engine_support import LAYERS, Machine, layer, make_variants, spec_of


class FakeTensorrt:
    """Parts of the package that a build touches; what is set on them can be read back."""

    def __init__(self, version: str, word: str = "Half") -> None:
        self.__version__ = version
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None, "Severity": SimpleNamespace(VERBOSE=4)})
        self.IProfiler = type("IProfiler", (), {"__init__": lambda self: None})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag, self.ProfilingVerbosity = SimpleNamespace(TF32="TF32"), SimpleNamespace(DETAILED="DETAILED")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.LayerInformationFormat = SimpleNamespace(JSON="JSON")
        self.Builder, self.OnnxParser, self.Runtime = MagicMock(), MagicMock(), MagicMock()
        self.builder, self.runtime = self.Builder.return_value, self.Runtime.return_value
        self.config = self.builder.create_builder_config.return_value
        self.config.create_timing_cache.return_value.serialize.return_value = b"timings"
        self.builder.build_serialized_network.return_value = b"a plan"
        self.engine = self.runtime.deserialize_cuda_engine.return_value
        self.engine.num_io_tensors = 2
        self.engine.get_tensor_dtype.return_value.itemsize = 2
        self.context = self.engine.create_execution_context.return_value
        self.context.execute_async_v3.side_effect = self._run
        inspector = self.engine.create_engine_inspector.return_value
        layers = json.dumps({"Layers": [layer(name, word) for name in LAYERS]})
        inspector.get_engine_information.return_value = layers

    def _run(self, stream: int) -> bool:
        if not isinstance(self.context.profiler, MagicMock):
            for name in LAYERS:
                self.context.profiler.report_layer_time(name, 0.125)
        return True

    def volume(self, shape: object) -> int:
        return 128


class FakeDevice:
    """Runs what it times."""

    def zeros(self, size: int) -> int:
        assert size == 256
        return 4096

    def time(self, run: Any) -> float:
        assert run(7)
        return 0.25


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_variants(tmp_path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "bin", monkeypatch)
    found.nvidia_smi("NVIDIA L4, 8.9, 570.1")
    monkeypatch.setattr(python_api.build, "__defaults__", (FakeDevice,))
    return found


def installed(monkeypatch: pytest.MonkeyPatch, version: str = "11.1.0.106", **options: str) -> FakeTensorrt:
    fake = FakeTensorrt(version, **options)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.mark.usefixtures("machine")
def test_fake_tensorrt_builds_the_same_files_with_the_same_settings(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = installed(monkeypatch)
    built = build_engine(workspace, spec_of(workspace, memory_mib=64, level=4))
    files = {path.name for path in built.files.folder.iterdir()}
    assert files == {"model.plan", "layers.json", "profile.json", "times.json", "build.log", "engine.json"}
    assert built.files.plan.read_bytes() == b"a plan"
    assert built.record["made_by"] == "the Python package tensorrt 11.1.0.106"
    assert built.record["times"]["median_ms"] == 0.25
    profile = json.loads(built.files.profile.read_text())
    assert [row.get("name") for row in profile] == [None, *LAYERS]
    assert profile[1]["percentage"] == 50
    fake.config.clear_flag.assert_called_once_with("TF32")
    fake.config.set_memory_pool_limit.assert_called_once_with("WORKSPACE", 64 << 20)
    assert (fake.config.builder_optimization_level, fake.config.profiling_verbosity) == (4, "DETAILED")
    shapes = fake.builder.create_optimization_profile.return_value.set_shape
    shapes.assert_called_once_with("x", (1, 4), (32, 4), (32, 4))
    fake.context.set_input_shape.assert_called_once_with("x", (32, 4))
    assert (workspace / "build" / "engines" / "sm89-trt11.1.0.106.timing.cache").read_bytes() == b"timings"


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("version", "flags"), [("10.12.0.36", 1 << 1), ("11.1.0.106", 0)])
def test_fake_tensorrt_10_is_told_to_take_the_types_of_the_graph(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, version: str, flags: int
) -> None:
    fake = installed(monkeypatch, version)
    build_engine(workspace, spec_of(workspace))
    fake.builder.create_network.assert_called_once_with(flags)


@pytest.mark.usefixtures("machine")
def test_fake_tensorrt_is_refused_by_the_same_proof(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, word="Float")
    with pytest.raises(Exception, match="0 of 2 layers run in FP16"):
        build_engine(workspace, spec_of(workspace))


@pytest.mark.usefixtures("machine")
def test_fake_tensorrt_that_reads_or_builds_nothing_says_so(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed(monkeypatch)
    fake.builder.build_serialized_network.return_value = None
    with pytest.raises(EngineFailed, match="TensorRT built no plan"):
        build_engine(workspace, spec_of(workspace))
    fake.OnnxParser.return_value.parse_from_file.return_value = False
    fake.OnnxParser.return_value.get_error.return_value.desc.return_value = "unknown operator"
    with pytest.raises(EngineFailed, match=r"cannot read .*: unknown operator"):
        build_engine(workspace, spec_of(workspace))


def test_trtexec_comes_before_the_python_package(
    workspace: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.trtexec()
    fake = installed(monkeypatch)
    build_engine(workspace, spec_of(workspace))
    assert len(machine.calls) == 1
    fake.Builder.assert_not_called()
