"""What an exported ONNX file says of itself, read without running it."""

from __future__ import annotations

from collections.abc import Mapping

from dkcam.errors import EngineError, ModelFileError, install
from dkcam.spec import SPEC_KEY, ModelSpec


def read_spec(data: bytes, source: str) -> ModelSpec:
    """The spec inside a file's bytes; ``source`` names it in errors. Errors: ModelFileError for a foreign or damaged file."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise EngineError(f"building engines needs the onnx package; {install('tensorrt')}") from error
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelFileError(f"{source} is not a whole ONNX model; export it again with dk-export") from error
    return spec_of({entry.key: entry.value for entry in model.metadata_props}, source)


def spec_of(metadata: Mapping[str, str], source: str) -> ModelSpec:
    """The spec among a file's metadata. Errors: ModelFileError where dk-export wrote none."""
    text = metadata.get(SPEC_KEY)
    if text is None:
        raise ModelFileError(
            f"{source} is an ONNX file without {SPEC_KEY}: dk-export did not write it; write its heatmap into it with dk-export {source}"
        )
    return ModelSpec.from_json(text, source)
