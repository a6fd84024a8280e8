"""The trainer and its stages."""
