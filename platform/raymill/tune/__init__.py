"""Studies of trainings: search joined to train, from a tune spec to the best model published."""
