"""Code in a process of its own that gets no more memory than it is allowed: what asks for more fails there, and not the machine."""

from __future__ import annotations

import subprocess
import sys

LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({data}, {data}))
"""


def limited(code: str, *words: object, mib: int = 1024, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """mib: of private memory, libraries' code not counted."""
    whole = LIMIT.format(data=mib << 20) + code
    return subprocess.run([sys.executable, "-c", whole, *map(str, words)], capture_output=True, text=True, timeout=timeout)


def command(name: str, *words: object, mib: int = 1024, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """A command (run, check, export) with its words, as a process that is limited."""
    return limited(
        f"from dkcam.tools.{name}_command import main\nmain(sys.argv[1:], prog_name='dk-{name}')", *words, mib=mib, timeout=timeout
    )


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Whether it ended as a user's error does, naming all of ``words``."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    good = done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr and len(lines[0]) < 1000
    return good and all(word in lines[0] for word in words)
