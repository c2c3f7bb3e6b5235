"""The module paths that torch's exporters leave in a graph: "layer4.2.conv1" for the node that it became."""

from __future__ import annotations

import ast

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"  # torch.onnx.export(dynamo=True) lists the path in each node's metadata


def path_of(node: ir.Node) -> str:
    """The path of the module a node belongs to, "" where the file does not say."""
    listed = node.metadata_props.get(SCOPES)
    if listed is not None:
        try:
            scopes = ast.literal_eval(listed)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return ""
        # the last is the node's own name
        return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return _from_name(node.name or "")


def _from_name(name: str) -> str:
    """ "/layer4/layer4.2/conv1/Conv", as the older exporter names nodes, to "layer4.2.conv1"."""
    if not name.startswith("/"):
        return ""
    parts: list[str] = []
    for part in name.split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part  # an item of a Sequential or ModuleList, named with its parent
        else:
            parts.append(part)
    return ".".join(parts)
