"""The experiments of Liu et al., "Optimized Dropkey-Based Grad-CAM", Sensors 2023, 23, 8351, again."""
