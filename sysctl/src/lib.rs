//! Kernel settings and preflight.
