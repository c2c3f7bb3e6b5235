"""Road scenes drawn by dkcam itself, with exact boxes: no file and no data set needed.

They feed the ``demo:`` source, the exporter's verification and ``dk-train rendered:``.
"""

from dkcam.rendered.drive import Drive
from dkcam.rendered.road import Box, Camera, Scene, SignPost, Vehicle, random_scene, render
from dkcam.rendered.signs import SIGN_NAMES, draw_sign

__all__ = [
    "SIGN_NAMES",
    "Box",
    "Camera",
    "Drive",
    "Scene",
    "SignPost",
    "Vehicle",
    "draw_sign",
    "random_scene",
    "render",
]
