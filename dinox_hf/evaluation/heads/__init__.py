"""Configuration and scores of trained heads."""
