"""``model.pt`` → one verified ONNX file. The only folder that imports torch, with tools/train."""
