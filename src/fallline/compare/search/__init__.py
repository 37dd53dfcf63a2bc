"""What is tried: arms, their spaces, how settings are chosen and when a training is given up."""
