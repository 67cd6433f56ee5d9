"""From a model file to a context that is ready: trial, measurements, choice."""
