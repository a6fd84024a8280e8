"""Localizers of the field, each one file with one class: the map and the contrastive loss."""
