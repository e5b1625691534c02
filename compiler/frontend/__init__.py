"""From ONNX files and protobufs to the intermediate representation."""
