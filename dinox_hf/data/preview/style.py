"""Colours of a contact sheet: CT is read on black, and the charts beside it must not blind."""

BACKGROUND, PANEL, GRID = "#0F1318", "#171C23", "#2A313B"
TEXT, DIM = "#F0F2F5", "#A3ADBA"
# Okabe and Ito: told apart by colour-blind readers as well.
ORANGE, SKY, GREEN, YELLOW, PINK = "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7"
PADDING = (0.09, 0.19, 0.33)  # red, green, blue: no grey value, which could be taken for air
# By kind of mark: colour, marker, words.
MARK_STYLES = {"small_nodule": (SKY, "+", "mark: nodule below 3 mm"), "non_nodule": (PINK, "x", "mark: no nodule")}
