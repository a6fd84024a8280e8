"""The field's methods, each one file with one class: the map and the contrastive loss."""
