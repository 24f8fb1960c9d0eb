//! Modes change while somebody looks: every frame that is shown stays right, and nothing is left mapped.
