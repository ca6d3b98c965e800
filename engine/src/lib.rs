//! Holdfast engine.
