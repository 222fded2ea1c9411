"""Self-supervised methods: MAE, DINO, DINOv2-style, LeJEPA."""
