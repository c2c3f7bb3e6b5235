"""Each camera is read and decoded in a process of its own; what it sends can break nothing but its own connection.

dk-run                                        decoder process, one a camera
process.Decoder  ── open, take, room ──►  child.main: stream.open_stream, newest pictures
                 ◄── arrived, picture ──
                 ◄══ pixels, in shared memory made and sized by dk-run
"""

from dkcam.runtime.live.decoder.process import Decoder

__all__ = ["Decoder"]
