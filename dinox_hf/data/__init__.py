"""From scanner files to training examples: readers, collections, built sets, crops, masks and the loader."""
