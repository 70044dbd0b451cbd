"""Models: tensors in, tensors out; they never see a path, a Dataset or a variable's name."""
