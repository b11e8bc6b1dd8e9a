"""Training: one configuration, plain functions for losses and schedules, one loop."""
