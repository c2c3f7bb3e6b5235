"""``--config FILE``: a TOML file whose keys are the command's flags. Flags on the command line go before it."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from pathlib import Path
from typing import Any

import click

from dkcam.errors import DataError, DkcamError
from dkcam.files import read_file
from dkcam.tools.logs import say

MOST_BYTES = 1 << 20


def config_option(function: Any) -> Any:
    """The --config option."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="TOML file with any of these flags, such as  camera = [0, 1]  or  max-age = 0.5; flags given here go before it.",
    )(function)


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        ctx.default_map = {**(ctx.default_map or {}), **read_config(ctx, path)}
    except DkcamError as error:
        say("error", " ".join(str(error).split()))
        ctx.exit(1)


def read_config(ctx: click.Context, path: Path) -> dict[str, Any]:
    """Values by parameter name, checked as the flags' are. Errors: DataError naming the file and the key."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        found = tomllib.loads(read_file(path, "a TOML file with flags of dk-run", DataError, most=MOST_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's and UTF-8's errors, and a number of thousands of digits
        raise DataError(f"{path} is not TOML: {str(error)[:200]}") from error
    flags = {name[2:]: each for each in ctx.command.params for name in each.opts if name.startswith("--") and each.name}
    for name in ("config", "version"):
        flags.pop(name, None)
    values: dict[str, Any] = {}
    for key, value in found.items():
        flag = flags.get(key)
        if flag is None:
            near = difflib.get_close_matches(key, flags, 1)
            raise DataError(f"{path}: {key} is no flag of this command" + (f"; did you mean {near[0]}?" if near else ""))
        try:
            value = _as_flag(flag, value)
            flag.type_cast_value(ctx, value)
        except (click.BadParameter, TypeError, ValueError) as error:
            words = error.message if isinstance(error, click.BadParameter) else str(error)
            raise DataError(f"{path}: {key}: {words}") from error
        assert flag.name is not None
        values[flag.name] = value
    _refuse_pipelines_of_others(path, values)
    return values


def _refuse_pipelines_of_others(path: Path, values: dict[str, Any]) -> None:
    """A GStreamer pipeline reads and writes files as its user may: nobody else may have a say in it. Errors: DataError."""
    mode = path.stat().st_mode
    if os.name == "posix" and stat.S_ISREG(mode) and mode & 0o022 and any(" ! " in uri for uri in values.get("sources", ())):
        raise DataError(
            f"{path} gives a GStreamer pipeline and can be changed by others (mode {stat.S_IMODE(mode):03o}); chmod go-w {path}"
        )


def _as_flag(flag: click.Parameter, value: Any) -> Any:
    """TOML's own forms as the command line would have them: lists, tables of KEY=VALUE."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) for part in parts):
        raise click.BadParameter("expected a text, a number, true or false, or a list of them")
    if any(isinstance(part, str) and "\0" in part for part in [*parts, *(value if isinstance(value, dict) else ())]):
        raise click.BadParameter("no text may hold a zero character")
    if isinstance(value, dict):
        value = [f"{name}={one}" for name, one in value.items()]
    if flag.multiple if isinstance(flag, click.Option) else False:
        return [str(one) for one in value] if isinstance(value, list) else [str(value)]
    if isinstance(flag, click.Option) and flag.is_flag:
        if not isinstance(value, bool):
            raise click.BadParameter(f"{value!r} is neither true nor false")
        return value
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
