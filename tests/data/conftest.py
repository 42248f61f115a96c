"""Fixtures of the data room."""

import datasets
import pytest


@pytest.fixture(autouse=True)
def private_arrow_cache(tmp_path_factory, monkeypatch):
    """Each test converts its tiny sets in a folder of its own, not in the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow_cache"))
