"""Localizers, their encoders, and weights from elsewhere."""
