"""Which clips there are: ids, lists, annotations, order."""
