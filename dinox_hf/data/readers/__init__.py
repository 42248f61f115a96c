"""Readers of image files: one file per family of formats, all yielding `Volume` or `Rejection`."""
