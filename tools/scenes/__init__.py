"""Training and test pictures with a label and, where there is an object, its exact box."""

from dkcam.tools.scenes.example import Example, Examples, SignSize
from dkcam.tools.scenes.source import open_examples

__all__ = ["Example", "Examples", "SignSize", "open_examples"]
