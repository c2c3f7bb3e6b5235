"""Whatever strangers send is decoded apart from the run: it can break nothing but its own connection, or its own answer.

dk-run                                        decoder process, one a connection to a camera
process.Decoder  ── open, take, room ──►  child.main: stream.open_stream, newest pictures
                 ◄── arrived, picture ──
                 ◄══ pixels, in shared memory made and sized by dk-run
                                              one process for the pictures that clients of the page send
pictures.PictureDecoder ◄══ both ways ══► picture_child.main

confine.py is what those processes give up: memory, files, programs, network.
"""

from dkcam.runtime.live.decoder.pictures import PictureDecoder
from dkcam.runtime.live.decoder.process import Decoder

__all__ = ["Decoder", "PictureDecoder"]
