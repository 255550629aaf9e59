"""The ONNX writer: a model and its postprocessing as one ONNX graph."""
