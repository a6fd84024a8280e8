"""Measures of a list of items, suites of such lists, and what is drawn of them."""
