"""Changes of a whole graph: merged batch-norms, lower precision, smaller files.

A pass is given an ``onnx_ir.Model`` and changes it in place. Values are named, not handed over: a value whose name goes into a pass
means the same under that name afterwards.
"""
