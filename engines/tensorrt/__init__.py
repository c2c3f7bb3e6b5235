"""TensorRT: building plans, the sidecar that says what a plan is, and the checks before one is loaded."""

from dkcam.engines.tensorrt.build import build_plan
from dkcam.engines.tensorrt.files import read_engine, write_engine
from dkcam.engines.tensorrt.library import Gpu, Library, find_gpu, load_tensorrt
from dkcam.engines.tensorrt.make import make_engine
from dkcam.engines.tensorrt.profile import Profile

__all__ = ["Gpu", "Library", "Profile", "build_plan", "find_gpu", "load_tensorrt", "make_engine", "read_engine", "write_engine"]
