"""The workloads and the runtimes that are compared: networks and single blocks, on our operator and elsewhere.

`networks` has pairs of a Bi-Real net and its twin (`networks_random` builds them with random weights), `shapes` and
`blocks` single convolutions. `onnx_runtime` and `openvino_runtime` run them; `graph` and `unfused` rewrite graphs.
"""
