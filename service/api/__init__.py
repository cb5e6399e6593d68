"""The HTTP surfaces: one router a file, thin handlers, and the ASGI middleware around them."""
