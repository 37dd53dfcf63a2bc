"""What runs next, so that every arm is treated alike: budget, studies, rounds, when it is settled."""
