"""The networks that docs/models.md is about: made here, with random weights, or taken from packages that ship them."""
