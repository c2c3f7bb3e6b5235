"""What was given (an ONNX file, a torch module, a checkpoint) -> a Network."""
