"""What a comparison says: standings, verdict, cautions, what to use, and the gate."""
