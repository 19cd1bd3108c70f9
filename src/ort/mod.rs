//! ONNX Runtime operators.
