"""What a command says while it runs: lines for people, or a JSON object a line for machines. All of it on stderr."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

import click

from dkcam.printable import json_line, printable
from dkcam.tools import streams

log = logging.getLogger("dkcam")
_as_json = False


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # a full disk or a closed pipe behind stderr is no reason to end
            self._emit(record)

    def _emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        if _as_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
            line = {"time": stamp, "level": record.levelname.lower(), "message": message} | ({"traceback": trace} if trace else {})
            click.echo(json_line(line), err=True)
        else:
            stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
            lines = [f"{stamp} {record.levelname.lower()}: {message}", *(trace.splitlines() if trace else ())]
            click.echo("\n".join(map(printable, lines)), err=True)


def configure(kind: str = "text", *, verbose: bool = False) -> None:
    """kind: text or json. verbose: with what is only of interest when something is looked for. From here on nobody waits for who
    reads.
    """
    global _as_json
    _as_json = kind == "json"
    streams.never_wait(_lost)
    for name, level in (("dkcam", logging.INFO if verbose else logging.WARNING), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [_Handler()]
        logger.setLevel(level)
        logger.propagate = False


def say(level: str, message: str) -> None:
    """A line of a command's own: "model: …", "note: …", "error: …"."""
    with suppress(OSError, ValueError):
        _say(level, message)


def _say(level: str, message: str) -> None:
    click.echo(_line(level, message), err=True)


def _line(level: str, message: str) -> str:
    if _as_json:
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": level, "message": message}
        return json_line(record)
    return printable(message if level == "info" else f"{level}: {message}")


def _lost(count: int) -> str:
    """In place of messages that nobody read in time."""
    return _line("warning", f"{count} messages were dropped here, since nobody read them") + "\n"
