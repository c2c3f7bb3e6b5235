"""Writes docs/models.md: many networks, each made, explained, verified and timed on this machine.

    python docs/models.py [--only NAME]… [--zoo DIR] [--stages NAME,…] [--again] [--seconds N] [--page]

What is measured is kept in docs/results/models.json, network by network, so that a run that was stopped goes on where it was. It needs
dkcam with its tests' extras and timm, ultralytics, segmentation-models-pytorch and grad-cam (installed with --no-deps, if torchvision
does not fit); networks whose packages are missing are left as they are. docs/zoo/from_tensorflow.py makes those of Keras.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS / "results" / "models.json"
sys.path.insert(0, str(DOCS))
STAGES = ("about", "found", "default", "early", "levels", "tensorrt", "cost", "peer", "fp16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a network; several times for several")
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="where the files are made and kept [default: zoo]")
    parser.add_argument("--stages", default=",".join(STAGES), help="which figures [default: all]")
    parser.add_argument("--again", action="store_true", help="measure what has figures already")
    parser.add_argument("--seconds", type=int, default=1500, help="for one network, all stages together [default: 1500]")
    parser.add_argument("--results", type=Path, default=RESULTS, help="[default: docs/results/models.json]")
    parser.add_argument("--page", action="store_true", help="write the page from the figures there are, and measure nothing")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the process of one network
    options = parser.parse_args()
    from zoo.table import NETWORKS

    stages = [name for name in options.stages.split(",") if name]
    if unknown := [name for name in stages if name not in STAGES]:
        parser.error(f"--stages {unknown[0]}: expected some of {', '.join(STAGES)}")
    names = [network.name for network in NETWORKS]
    if unknown := [name for name in options.only if name not in names]:
        parser.error(f"--only {unknown[0]}: expected one of {', '.join(names)}")
    if options.inside:
        _inside(options.inside, options.zoo, stages)
        return
    if not options.page:
        for name in options.only or names:
            _one(name, options, stages)
    if not options.only or options.page:
        from zoo.page import write

        write(NETWORKS, json.loads(options.results.read_text()), DOCS / "models.md")


def _one(name: str, options: argparse.Namespace, stages: list[str]) -> None:
    """Measure one network in a process of its own, whose lines are the figures of its stages."""
    row = _kept(options.results).get("networks", {}).get(name, {})
    left = [stage for stage in stages if options.again or stage not in row]
    if not left:
        return
    start = time.monotonic()
    command = [sys.executable, __file__, "--inside", name, "--zoo", str(options.zoo), "--stages", ",".join(left)]
    # one thread: figures of a busy machine are worth more so
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        timer = _kill_after(process, options.seconds)
        for line in process.stdout:
            if not line.startswith('{"stage"'):
                continue
            said = json.loads(line)
            left = [stage for stage in left if stage != said["stage"]]
            row[said["stage"]] = said["figures"]
            _save(options.results, name, row)
        code = process.wait()
        timer.cancel()
    if left and code:
        late = time.monotonic() - start > options.seconds
        row[left[0]] = {
            "failed": f"took longer than {options.seconds} s with all stages before" if late else f"the process ended with code {code}"
        }
        _save(options.results, name, row)
    shown = {stage: figures.get("failed", "ok") for stage, figures in row.items()}
    print(
        f"{name}: {time.monotonic() - start:.0f} s, {', '.join(f'{stage} {how}' for stage, how in shown.items() if stage in stages)}",
        flush=True,
    )


def _kill_after(process: subprocess.Popen[str], seconds: float) -> Any:
    import threading

    timer = threading.Timer(seconds, process.kill)
    timer.start()
    return timer


def _kept(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _save(path: Path, name: str, row: dict[str, Any]) -> None:
    """Put one network's figures into the file, where another run may be putting its own."""
    from importlib.metadata import version

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _kept(path)
        kept.setdefault("networks", {})[name] = row
        kept["versions"] = {name: version(name) for name in ("dkcam", "torch", "onnx", "onnxruntime")}
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        beside.replace(path)


def _inside(name: str, zoo: Path, stages: list[str]) -> None:
    from zoo import product
    from zoo.make import NotHere
    from zoo.measure import measure
    from zoo.table import NETWORKS

    network = next(one for one in NETWORKS if one.name == name)
    path = zoo.resolve() / "onnx" / f"{name}.onnx"
    product.SIZES["size"] = network.size
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}")
        try:
            network.make(beside)
        except (NotHere, ImportError) as error:
            print(json.dumps({"stage": "about", "figures": {"failed": str(error)}}), flush=True)
            return
        beside.replace(path)
    measure(
        network,
        path,
        zoo.resolve() / "work",
        stages,
        lambda stage, figures: print(json.dumps({"stage": stage, "figures": figures}), flush=True),
    )


if __name__ == "__main__":
    main()
