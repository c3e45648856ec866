//! Layers, losses and optimizers.
