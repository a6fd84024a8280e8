"""What a training step minimises: the dual mean teacher, its rivals, and their definition in plain PyTorch."""
