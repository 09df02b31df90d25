"""Protocol buffers of the gRPC protocols, and the code that `scripts/protos.py` makes of them."""
