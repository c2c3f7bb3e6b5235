"""Figures about heatmaps: where the heat lies, how steady it is, whether it matters; each with its source."""
