"""The engines. Each module is loaded on demand by `registry`; nothing else imports torch, NeMo or ONNX Runtime."""
