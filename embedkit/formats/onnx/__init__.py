"""ONNX graphs of text encoders and dual encoders."""
