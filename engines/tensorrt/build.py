"""An ONNX file becomes a TensorRT plan. The network is strongly typed: precision is what the graph says, nothing else."""

from __future__ import annotations

from typing import Any

from dkcam.engines.cache import Entry, cache_folder
from dkcam.engines.progress import Report, silent
from dkcam.engines.tensorrt.library import Library
from dkcam.engines.tensorrt.profile import Profile
from dkcam.errors import EngineError
from dkcam.spec import ModelSpec


def build_plan(
    library: Library,
    data: bytes,
    source: str,
    spec: ModelSpec,
    profile: Profile,
    report: Report = silent,
    dla: int | None = None,
) -> bytes:
    """The plan's bytes for an ONNX file's bytes.

    source: its name in errors. report: (phase, step, steps). dla: a Jetson's DLA core for the layers it can run, the GPU
    for the others. TensorRT's own flavour needs the GPU the plan is for;
    TensorRT-RTX needs none. Errors: EngineError, one line with TensorRT's first complaint.
    """
    trt = library.module
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse(data)
    except (RuntimeError, TypeError) as error:  # no driver, no GPU: the builder itself cannot be made
        raise EngineError(f"{library.flavour} {library.version} cannot build here ({first_error(logger, str(error))})") from error
    if not parsed:
        raise EngineError(f"{library.flavour} {library.version} does not take {source}: {_refusal(parser)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is fp32: TF32 rounds to 10 bits, and moves the heatmap
    if dla is not None:
        _use_dla(trt, builder, config, dla)
    config.add_optimization_profile(_profile(builder, network, profile, spec))
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, report)
    timing = _timing_file(library)
    cache = _load_timing(config, timing)
    try:
        plan = builder.build_serialized_network(network, config)
    except (RuntimeError, MemoryError) as error:
        raise EngineError(f"{library.flavour} could not build {source}: {first_error(logger, str(error))}") from error
    if plan is None:
        raise EngineError(f"{library.flavour} could not build {source}: {first_error(logger, 'no reason given')}")
    _save_timing(cache, timing)
    return bytes(plan)


def _use_dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    there = int(getattr(builder, "num_DLA_cores", 0))
    if core >= there:
        raise EngineError(f"--dla {core}: this machine has {there or 'no'} DLA core{'s' if there != 1 else ''}; leave --dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _refusal(parser: Any) -> str:
    """The parser's first error with the operator it is about."""
    if not parser.num_errors:
        return "no reason given"
    error = parser.get_error(0)
    operator = f"operator {error.node_operator()} ({error.node_name()}): " if error.node_operator() else ""
    return operator + " ".join(error.desc().split())[:200]


def make_logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's errors for dkcam's own message instead of printing them."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)

    return Logger()


def first_error(logger: Any, otherwise: str) -> str:
    """The first error a logger of ``make_logger`` kept, in one line."""
    text = logger.errors[0] if logger.errors else otherwise
    return " ".join(text.split())[:200]


def _profile(builder: Any, network: Any, profile: Profile, spec: ModelSpec) -> Any:
    found = builder.create_optimization_profile()
    shapes = profile.shapes(spec)
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        found.set_shape(name, *shapes[name])
    return found


def _monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(f"TensorRT: {phase_name}", step, self._steps.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _timing_file(library: Library) -> Entry | None:
    """TensorRT remembers how fast each kernel was: later builds of similar graphs are several times faster."""
    folder = cache_folder()
    return (
        Entry(folder / f"timing-{library.version}.cache", f"timing {library.version}") if folder and library.flavour == "tensorrt" else None
    )


def _load_timing(config: Any, entry: Entry | None) -> Any:
    if entry is None:
        return None
    try:
        cache = config.create_timing_cache(entry.read() or b"")
        config.set_timing_cache(cache, False)
        return cache
    except (RuntimeError, TypeError):
        return None


def _save_timing(cache: Any, entry: Entry | None) -> None:
    if cache is not None and entry is not None:
        entry.write(bytes(cache.serialize()))
