"""A run's clips: its lists, its data set, its loaders."""
