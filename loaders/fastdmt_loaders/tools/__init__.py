"""Tools on data sets: check, prepare, pack, demo."""
