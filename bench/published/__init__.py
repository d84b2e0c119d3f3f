"""Runs published models by their manifest alone, beside onnxruntime and decoders of its own."""
