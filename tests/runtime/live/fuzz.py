"""Mutated input for everything that reads what strangers send: python -m tests.runtime.live.fuzz [--seconds 60] [--seed 0].

    jpeg      headers against OpenCV: where both read a picture, they agree on its size
    rtsp      the relay's reader: what it lets through is RTSP again, and leads nowhere else
    wire      what a decoder process says: messages or ValueError, nothing else
    picture   the process for clients' pictures: an answer or InputError; a crash costs one answer
    stream    a decoder process behind a server: MJPEG, MPEG-TS, MP4, IVF; an error or pictures, never longer than its deadlines

Prints how often each was tried and what was found; ends with 1 where a promise was broken, with the seed that shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from io import BytesIO

import av
import cv2
import numpy as np

from dkcam.errors import InputError, SourceError
from dkcam.runtime import jpeg
from dkcam.runtime.live.decoder import Decoder, PictureDecoder
from dkcam.runtime.live.decoder.wire import Channel
from dkcam.runtime.live.http import Redirect
from dkcam.runtime.live.link import Gone
from dkcam.runtime.live.rtsp import LONGEST_BODY, Reader, Refused, checked
from tests.runtime.live.camera_server import BOUNDARY
from tests.runtime.live.hostile import PICTURES, small_jpeg
from tests.runtime.live.hostile_servers import MULTIPART, OK, hostile, once, vp8

Random = np.random.Generator
INTERESTING = [b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"$\0\xff\xff", b"\r\n\r\n", b"\0\0\0\1", b"\xff" * 8, b"\0" * 8, b"302"]
LONGEST_S = 12.0  # of one try: what deadlines allow, on a busy machine


def mutated(data: bytes, rng: Random) -> bytes:
    """A few changes: bits, bytes, pieces that are cut, doubled, moved, or replaced by what parsers look for."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        if not out:
            return b""
        at, size = int(rng.integers(len(out))), int(rng.integers(1, 1 + min(64, len(out))))
        match int(rng.integers(6)):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                out[at : at + size] = rng.bytes(size)
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = out[at : at + size] * int(rng.integers(1, 4))
            case 4:
                out[at:at] = INTERESTING[int(rng.integers(len(INTERESTING)))]
            case _:
                out[at : at + 2] = int(rng.integers(1 << 16)).to_bytes(2, "big")
    return bytes(out)


@lru_cache
def jpegs() -> tuple[bytes, ...]:
    picture = np.random.default_rng(1).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    kinds = ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2], [cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    return tuple(cv2.imencode(".jpg", picture, kind)[1].tobytes() for kind in kinds)


def fuzz_jpeg(rng: Random) -> str:
    data = mutated(jpegs()[int(rng.integers(4))], rng)
    header, size = jpeg.read_header(data), jpeg.size_of(data)
    picture = jpeg.decode(data, 1_000_000)
    if picture is not None:
        assert header is not None and header.whole and picture.shape[0] * picture.shape[1] <= header.height * header.width, "sizes differ"
        assert size != (0, 0), "no size of a picture that is one"
    return "picture" if picture is not None else "refused"


RTSP = (
    b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Base: rtsp://127.0.0.1/camera/\r\nContent-Length: 5\r\n\r\nv=0\r\n$\0\0\4abcd$\1\0\2xy"
    b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nTransport: RTP/AVP;unicast;client_port=1-2;server_port=3-4;source=10.9.9.9;destination=10.9.9.8\r\n\r\n"
    b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\nRTSP/1.0 302 Found\r\nLocation: rtsp://10.9.9.9/\r\nCSeq: 4\r\n\r\n"
)


def fuzz_rtsp(rng: Random) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(mutated(RTSP, rng))
        theirs.shutdown(socket.SHUT_WR)
        try:
            for message in Reader(ours).messages():
                if message[:1] == b"$":
                    continue
                passed = checked(message, b"10.0.0.7", "rtsp://10.0.0.7/camera")
                assert len(passed) < LONGEST_BODY + (1 << 20), "too long"
                first = passed.split(b"\r\n")[0]
                assert not (first.startswith(b"RTSP/") and first.split()[1].startswith(b"3")), "a redirect got through"
                transports = [line for line in passed.split(b"\r\n\r\n")[0].split(b"\r\n") if line.lower().startswith(b"transport:")]
                assert not any(b"source=10.9" in line or b"destination=10.9" in line for line in transports), "another host got through"
        except (Refused, Redirect):
            return "refused"
    return "passed"


WORDS = b"".join(
    json.dumps(word).encode() + b"\n"
    for word in ({"opened": True}, {"arrived": 1, "at": 2.5}, {"needs": 100}, {"picture": 1, "size": [3, 4]})
)


def fuzz_wire(rng: Random) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(mutated(WORDS, rng))
        theirs.shutdown(socket.SHUT_WR)
        try:
            return f"{sum(1 for _ in Channel(ours).messages())} messages"
        except (ValueError, RecursionError):
            return "refused"


@lru_cache
def pictures() -> tuple[bytes, ...]:
    picture = np.random.default_rng(1).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    whole = [cv2.imencode(kind, picture)[1].tobytes() for kind in (".jpg", ".png", ".webp", ".bmp", ".tiff")]
    return (*whole, *(make() for name, make in PICTURES.items() if "of" in name and "scans" not in name))


_decoder = PictureDecoder()


def fuzz_picture(rng: Random) -> str:
    data = mutated(pictures()[int(rng.integers(len(pictures())))], rng)
    try:
        return "picture" if _decoder.decode(data).ndim == 3 else "?"
    except InputError as error:
        return "ended its process" if "ended over it" in str(error) else "refused"


@lru_cache
def streams() -> tuple[tuple[bytes, bytes], ...]:
    """(head, body) of answers."""
    made = []
    for form, codec, kind in (("mpegts", "libx264", b"video/mp2t"), ("mp4", "libx264", b"video/mp4"), ("mpegts", "mpeg4", b"video/mp2t")):
        memory = BytesIO()
        options = {"movflags": "frag_keyframe+empty_moov"} if form == "mp4" else {}
        with av.open(memory, "w", format=form, options=options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for k in range(12):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * k, np.uint8), format="rgb24")))
            container.mux(stream.encode())
        made.append((OK % kind, memory.getvalue()))
    parts = b"".join(BOUNDARY % len(data) + data + b"\r\n" for data in (*jpegs(), small_jpeg()))
    return (*made, (MULTIPART, parts), (OK % b"video/x-ivf", vp8(48, 64)))


def fuzz_stream(rng: Random) -> str:
    head, body = streams()[int(rng.integers(len(streams())))]
    with hostile(once(head, mutated(body, rng), hold=False)) as server:
        link = Decoder(f"http://127.0.0.1:{server.port}/camera", 1.0)
        result = "ended"
        try:
            link.open()
            for arrival in link.arrivals():
                with suppress(Gone):
                    arrival.take()
                why = link.overdue(time.perf_counter())
                if why is not None:
                    link.end(why)
        except SourceError as error:
            result = "killed by a signal" if "was killed by" in str(error) else "refused"
        finally:
            link.close()
        assert server.visits == 0, "it went elsewhere"
    return result


TARGETS: dict[str, tuple[Callable[[Random], str], int]] = {  # and how often in a row
    "jpeg": (fuzz_jpeg, 200), "rtsp": (fuzz_rtsp, 200), "wire": (fuzz_wire, 200), "picture": (fuzz_picture, 50), "stream": (fuzz_stream, 2),
}  # fmt: skip


def fuzz(seconds: float, seed: int) -> dict[str, dict[str, int]]:
    """What became of the tries, by target. Errors: AssertionError with target and seed."""
    results: dict[str, Counter[str]] = {name: Counter() for name in TARGETS}
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for name, (target, often) in TARGETS.items():
            for _ in range(often):
                number += 1
                start = time.perf_counter()
                try:
                    results[name][target(np.random.default_rng([seed, number]))] += 1
                except Exception as error:
                    raise AssertionError(f"{name}, seed {seed}, try {number}: {type(error).__name__}: {error}") from error
                assert time.perf_counter() - start < LONGEST_S, f"{name}, seed {seed}, try {number}: {time.perf_counter() - start:.1f} s"
    return {name: dict(counts) for name, counts in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    own = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg says a line for every damaged picture
    sys.stderr = os.fdopen(own, "w")
    try:
        results = fuzz(arguments.seconds, arguments.seed)
    except AssertionError as error:
        sys.exit(f"broken: {error}")
    finally:
        _decoder.close()
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
