"""Maps, boxes, curves and videos drawn with Pillow."""
