"""What can be said before a comparison: rules of thumb with references, and the learning-rate range test."""
