"""One reader each of pictures, sounds and clips, with limits."""
