"""Processes, and tensors that are sharded over them."""
