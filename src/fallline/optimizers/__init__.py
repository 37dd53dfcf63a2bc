from fallline.optimizers.adamw import Adam, AdamW
