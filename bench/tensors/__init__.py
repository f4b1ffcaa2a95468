"""Models of tensors: this agent beside onnxruntime alone, MLServer and LitServe, on the same files."""
