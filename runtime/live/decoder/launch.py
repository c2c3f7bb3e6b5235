"""How dk-run starts a process that decodes for it, and how it is rid of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

from dkcam.runtime.live.decoder.wire import Channel

START_S = 10.0  # for Python and its libraries to load, on a slow machine
LEAVE_S = 0.4  # for the process to end by itself; it takes leave of the camera meanwhile
# sys.path as here, so that the child finds this very dkcam, and nothing in the folder it was started in
CODE = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from dkcam.runtime.live.decoder.{} import main; main(int(sys.argv[2]))"


def start(code: str) -> tuple[subprocess.Popen[bytes], Channel]:
    """Run Python code; its second argument is the descriptor of its end of the channel. Errors: OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what libraries print there is in its messages, or of no use
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # else each core takes memory for algebra that nobody does there
                start_new_session=True,  # Ctrl-C in a terminal is for dk-run alone
            )
        except OSError:
            ours.close()
            raise
    return process, Channel(ours, is_run=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that takes its leave; kill one that stays."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(LEAVE_S)
    process.kill()
    with suppress(subprocess.TimeoutExpired):  # one that even the kernel cannot end at once is not waited for
        process.wait(LEAVE_S)
