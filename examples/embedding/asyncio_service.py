"""An asyncio service: python asyncio_service.py [PORT] [MODEL].

A client sends pictures, each as 4 bytes of length (big-endian) and a JPEG or PNG; a line of JSON comes back for each.
The explainer runs in a worker thread: the loop goes on meanwhile. An explainer may be called from several threads.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

import cv2
import numpy as np

import dkcam

MOST_BYTES = 20 << 20
AT_ONCE = 2  # inferences; the others wait


def explain(explainer: dkcam.Explainer, data: bytes) -> dict[str, object]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return {"error": "expected a JPEG or PNG picture"}
    explanation = explainer(image)
    return {"top": [[score.label, round(score.probability, 6)] for score in explanation.top(3)], "peak": explanation.peak()}


async def serve(explainer: dkcam.Explainer, turns: asyncio.Semaphore, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            if size > MOST_BYTES:
                break
            data = await reader.readexactly(size)
            async with turns:
                answer = await asyncio.to_thread(explain, explainer, data)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client is done
    finally:
        writer.close()


async def main(port: str = "8765", model: str | None = None) -> None:
    explainer = dkcam.load(model)
    server = await asyncio.start_server(partial(serve, explainer, asyncio.Semaphore(AT_ONCE)), "127.0.0.1", int(port))
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) > 3 or not all(port.isdigit() and int(port) < 65536 for port in sys.argv[1:2]):
        sys.exit("usage: python asyncio_service.py [PORT] [MODEL]")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except (dkcam.DkcamError, OSError) as error:  # no such model, or the port is taken
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass
