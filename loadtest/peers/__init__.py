"""What is measured, and against what: networks and single blocks, on our operator and on other runtimes.

`networks` are pairs of a Bi-Real net and its twin (`networks_random` makes some), `shapes` and `blocks` single
convolutions; `onnx_runtime` and `openvino_runtime` are ways to run them, `graph` and `unfused` rebuild graphs for that.
"""
