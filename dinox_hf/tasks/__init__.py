"""Downstream tasks: every one takes a Dinov3CTModel and returns a model."""
