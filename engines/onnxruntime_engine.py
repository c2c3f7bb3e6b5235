"""ONNX Runtime on any of its execution providers. For the CPU the optimised graph is kept on disk, tied to the file's hash and
the runtime's version.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.engines.cache import Entry, cache_folder
from dkcam.engines.engine import EngineOptions, GpuImage, Outputs, check_inputs
from dkcam.engines.onnx_file import spec_of
from dkcam.engines.onnxruntime_providers import PROVIDERS, choose, remedy
from dkcam.errors import EngineError, InputError, ModelFileError, install
from dkcam.files import Replacement, make_folder
from dkcam.spec import SPEC_KEY


class OnnxRuntime:
    """An engine on one of ONNX Runtime's execution providers, and on no other: a silent fall back is an error.

    kind: of ``PROVIDERS``. data: the ONNX file's bytes. source: its name in errors. The cache holds the
    optimised graph; one that cannot be written is left out silently, it only saves time.
    """

    def __init__(self, kind: str, data: bytes, source: str, options: EngineOptions) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"onnxruntime is not installed; {install('cpu')} ('.[gpu]' on an NVIDIA machine)") from error
        provider = PROVIDERS[kind].name
        self.device = "cpu" if kind == "cpu" else f"{kind}:0"
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.lanes = options.lanes
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        # one lane uses onnxruntime's own default, a thread per core
        settings.intra_op_num_threads = max(1, (options.threads or cores()) // self.lanes) if self.lanes > 1 else options.threads
        # waiting threads would otherwise spin, and take the core from the thread that reads the next frame
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # small blocks handed out one by one: a thread that lost its core for a moment does not keep the others waiting
        settings.add_session_config_entry("session.dynamic_block_base", "4")
        chosen = choose(onnxruntime, settings, kind, options.provider_options)
        open_session = partial(onnxruntime.InferenceSession, sess_options=settings, providers=chosen)
        kept = self._entry(onnxruntime.__version__) if options.cache and kind == "cpu" else None
        session = None
        if kept is not None:
            session = _from_cache(open_session, kept) or _into_cache(open_session, settings, data, kept)
        if session is None:
            try:
                session = open_session(data)
            except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
                first = str(error).strip().splitlines()[0][:160]
                raise ModelFileError(f"{source} is not a whole ONNX model ({first}); export it again with dk-export") from error
        if session.get_providers()[0] != provider:
            raise EngineError(f"{provider} could not start and onnxruntime fell back to {session.get_providers()[0]}; {remedy(kind)}")
        self._session, self._onnxruntime = session, onnxruntime
        self._memory, self._values = PROVIDERS[kind].memory, threading.local()
        self.spec = spec_of(session.get_modelmeta().custom_metadata_map, source)
        self._check_interface(source)
        self._names = [output.name for output in session.get_outputs()]
        self._inputs = {value.name for value in session.get_inputs()}

    @property
    def cuda(self) -> None:
        """ONNX Runtime takes and gives host arrays."""
        return None

    def _entry(self, version: str) -> Entry | None:
        # the optimiser's choices depend on the processor's instruction set as well
        kind = f"{version}-{platform.machine()}-{_processor()}"
        folder = cache_folder()
        return Entry(folder / f"{self.sha256[:32]}-{kind}.graph", f"{self.sha256} {kind}") if folder else None

    def _check_interface(self, source: str) -> None:
        spec, again = self.spec, "export it again with dk-export"
        shapes = {value.name: value.shape for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        for name in ("image", *spec.explanation.outputs, *(["key_mask"] if spec.masks else [])):
            if name not in shapes:
                raise ModelFileError(f"{source} lacks {name}, which its {SPEC_KEY} names; {again}")
        count = spec.explanation.count
        expected = {
            "image": spec.input.shape(None),
            "classes": [None, count] if spec.explanation.per_image else [count],
            "logits": [None, len(spec.labels)],
            "probabilities": [None, len(spec.labels)],
            "explained": [None, count],
            "boxes": [None, count, 4],
            "scores": [None, count],
            "heatmap": [None, count, None, None],
        }
        if spec.masks is not None:
            fixed = spec.masks.grid is not None or "size" not in spec.input.dynamic
            tokens = spec.masks.tokens(spec.input.height, spec.input.width) if fixed else None
            expected["key_mask"] = [spec.masks.samples, tokens, tokens]
        for name, shape in expected.items():
            found = shapes.get(name, shape)
            if len(found) != len(shape) or any(isinstance(a, int) and b is not None and a != b for a, b in zip(found, shape, strict=True)):
                raise ModelFileError(f"{source}: {name} has shape {found}, its {SPEC_KEY} says {shape}; {again}")

    def run(self, image: NDArray[Any] | GpuImage, classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None = None) -> Outputs:
        """See ``Engine.run``. The arrays are fresh at every call."""
        check_inputs(self.spec, image, classes, key_mask)
        if not isinstance(image, np.ndarray):
            raise InputError(f"image is in GPU memory, and {self.device} takes numpy arrays")
        feed: dict[str, NDArray[Any]] = {"image": image}
        if "classes" in self._inputs:
            feed["classes"] = classes
        if key_mask is not None:
            feed["key_mask"] = key_mask
        try:
            values = self._session.run(None, feed) if self._memory == "cpu" else self._run_bound(feed)
            return dict(zip(self._names, values, strict=True))
        except Exception as error:
            first = str(error).strip().splitlines()[0][:200]
            raise EngineError(f"onnxruntime failed while running the model: {first}") from error

    def _run_bound(self, feed: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Inputs in device memory that is kept from run to run, one set a thread; outputs are copied back once."""
        kept: dict[str, Any] = self._values.__dict__
        binding = self._session.io_binding()
        for name, array in feed.items():
            if name in kept and tuple(kept[name].shape()) == array.shape:
                kept[name].update_inplace(np.ascontiguousarray(array))
            else:
                kept[name] = self._onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._memory, 0)
            binding.bind_ortvalue_input(name, kept[name])
        for name in self._names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def close(self) -> None:
        self._session = None


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """A short hash of the processor's name and features."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        lines = [line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))]
        text = "\n".join(lines)
    except OSError:
        text = platform.processor()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _from_cache(open_session: Callable[[bytes], Any], kept: Entry) -> Any:
    """None where there is no entry, or none that can be used."""
    data = kept.read()
    if data is None:
        return None
    try:
        session = open_session(data)
    except Exception as error:  # as above
        kept.drop(f"onnxruntime does not take it ({' '.join(str(error).split())[:100]})")
        return None
    if SPEC_KEY not in session.get_modelmeta().custom_metadata_map:
        kept.drop(f"it lacks {SPEC_KEY}")
        return None
    return session


def _into_cache(open_session: Callable[[bytes], Any], settings: Any, data: bytes, kept: Entry) -> Any:
    """Open the file and keep the optimised graph; None where that fails (no space, read-only)."""
    try:
        make_folder(kept.path.parent)
        optimised = Replacement(kept.path, EngineError, private=True)
    except (OSError, EngineError):
        return None
    try:
        settings.optimized_model_filepath = str(optimised.temporary)
        session = open_session(data)
        content = optimised.temporary.read_bytes()
        if content and SPEC_KEY in session.get_modelmeta().custom_metadata_map:
            kept.write(content)
        return session
    except Exception:  # as above
        return None
    finally:
        settings.optimized_model_filepath = ""
        optimised.discard()
