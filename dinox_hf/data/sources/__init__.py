"""What a collection looks like on disk and what its labels mean: one file per collection."""
