"""From the intermediate representation to ONNX files, session settings and bundles."""
