"""Training: pictures in, ``model.pt`` out."""
