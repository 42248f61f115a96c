"""The parts of a build, in their order: plan, pieces, assembly, card and report; `builder.py` tells the story."""
