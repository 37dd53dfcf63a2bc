"""fallline."""
