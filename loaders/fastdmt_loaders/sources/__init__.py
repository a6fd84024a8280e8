"""Where batches come from: worker processes, DALI, memory."""
