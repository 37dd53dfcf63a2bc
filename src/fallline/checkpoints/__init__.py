"""Checkpoints: files that are whole or refused, and the state of other libraries brought over."""

from fallline.checkpoints.convert import from_bitsandbytes as from_bitsandbytes
from fallline.checkpoints.convert import from_torchao as from_torchao
