"""fallline."""
from fallline import backends
from fallline.optimizers.adamw import AdamW
